"""The table of the tutorial, a column for each setting and a row for each estimate, with errors."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cvae.data import setting_name
from cvae.evaluate import Estimate, Evaluation, with_error
from cvae.storage.files import atomic_write

__all__ = ["Results", "Table"]

Results = dict[int, dict[str, Evaluation]]  # number of known quadrants: split: evaluation

SPLIT_NAMES = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Table:
    """The tutorial's table: a column for each setting and a row for each estimate.

    Attributes:
        values: in nats per image, unless the row says otherwise.
        errors: of these, in the same shape; NaN where there is none.
        caption: what the numbers are: sign, unit, images, particles, recipe and seed.
        metrics: the content of ``metrics.json``: every number, and where it comes from.
    """

    values: pd.DataFrame
    errors: pd.DataFrame
    caption: str
    metrics: dict[str, Any]

    @classmethod
    def of_run(cls, results: Results, metrics: dict[str, Any], diagnostics: bool = False) -> "Table":
        """Make the table of one seed, with standard errors over images.

        Args:
            results: evaluations, for each setting of the same splits.
            metrics: all but the results; ``splits``, ``recipe``, ``seed`` and ``arguments`` stand in the caption.
            diagnostics: append their rows.
        """
        values, errors = {}, {}
        for n, evaluations in results.items():
            for split, evaluation in evaluations.items():
                column = setting_name(n) + (f", {SPLIT_NAMES[split]}" if len(evaluations) > 1 else "")
                rows: dict[str, Estimate | float] = {**evaluation.rows}
                if diagnostics:
                    rows |= evaluation.diagnostics
                # series, as pandas 2.1 sorts the rows of a single dict
                values[column] = pd.Series({row: getattr(entry, "mean", entry) for row, entry in rows.items()})
                errors[column] = pd.Series({row: getattr(entry, "standard_error", None) for row, entry in rows.items()})
        caption = f"{_caption(metrics)}, seed {metrics['seed']}; ± standard error over images"
        metrics = metrics | {"caption": caption, "results": {f"q{n}": each for n, each in results.items()}}
        return cls(pd.DataFrame(values), pd.DataFrame(errors, dtype=float), caption, metrics)

    @classmethod
    def of_seeds(cls, tables: Sequence["Table"]) -> "Table":
        """Make the table of means over several seeds, with standard deviations over them.

        It has the columns that the tables of all seeds have.
        """
        by_row = pd.concat([table.values for table in tables], join="inner").groupby(level=0, sort=False)
        runs = [table.metrics for table in tables]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        caption = f"{_caption(runs[0])}; mean of seeds {seeds} ± standard deviation over them"
        return cls(by_row.mean(), by_row.std(), caption, {"caption": caption, "runs": runs})

    def markdown(self) -> str:
        """Format it in Markdown, with errors."""
        lines = [
            f"{self.caption}. Performance gap: baseline minus Monte Carlo.",
            "",
            f"| | {' | '.join(self.values.columns)} |",
            f"|---|{'---|' * len(self.values.columns)}",
        ]
        for row in self.values.index:
            cells = map(with_error, self.values.loc[row], self.errors.loc[row])
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``results.csv``, ``results.md`` and ``metrics.json`` to an existing folder.

        Raises:
            OSError: a file can't be written; an older one of that name is not damaged.
        """
        texts = {
            "results.csv": self.values.to_csv(lineterminator="\n"),
            "results.md": self.markdown(),
            "metrics.json": json.dumps(self.metrics, indent=2, default=asdict) + "\n",
        }
        for name, text in texts.items():
            with atomic_write(folder / name) as file:
                file.write(text.encode())


def _caption(metrics: dict[str, Any]) -> str:
    splits = {key: f"{s['name']} ({s['images']:,} images)" for key, s in metrics["splits"].items()}
    where = f"{splits['val']}, which also decided when to stop training"
    if "test" in splits:
        where = f"validation: {splits['val']}, which decided when to stop training; test: {splits['test']}"
    arguments = metrics["arguments"]
    return (
        f"Negative CLL (nats per image; lower is better); {where}; Monte Carlo {arguments['num_particles']} and "
        f"the others {arguments['num_importance_samples']} particles; {metrics['recipe']}"
    )
