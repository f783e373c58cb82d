"""The table of the tutorial, a column for each setting and a row for each estimate, with errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cvae.data import setting_name
from cvae.evaluate import Estimate, Evaluation, with_error

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
    """

    values: pd.DataFrame
    errors: pd.DataFrame
    caption: str

    @classmethod
    def of_run(cls, results: Results, metrics: dict[str, Any], diagnostics: bool = False) -> "Table":
        """Make the table of one seed, with standard errors over images.

        Args:
            results: evaluations, for each setting of the same splits.
            metrics: what the caption is made of: ``splits``, ``recipe``, ``seed`` and ``arguments``.
            diagnostics: append their rows.
        """
        columns: dict[str, dict[str, Estimate | float]] = {}
        for n, evaluations in results.items():
            for split, evaluation in evaluations.items():
                name = setting_name(n) + (f", {SPLIT_NAMES[split]}" if len(evaluations) > 1 else "")
                columns[name] = {**evaluation.rows, **(evaluation.diagnostics if diagnostics else {})}
        table = pd.DataFrame(columns)
        caption = f"{_caption(metrics)}, seed {metrics['seed']}; ± standard error over images"
        return cls(table.map(_value), table.map(_error), caption)

    @classmethod
    def of_seeds(cls, tables: Sequence["Table"], metrics: dict[str, Any]) -> "Table":
        """Make the table of means over several seeds, with standard deviations over them."""
        by_row = pd.concat([table.values for table in tables]).groupby(level=0, sort=False)
        seeds = ", ".join(map(str, metrics["seeds"]))
        caption = f"{_caption(metrics)}; mean of seeds {seeds} ± standard deviation over them"
        return cls(by_row.mean(), by_row.std(), caption)

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


def _value(entry: Estimate | float) -> float:
    return entry.mean if isinstance(entry, Estimate) else entry


def _error(entry: Estimate | float) -> float:
    return entry.standard_error or math.nan if isinstance(entry, Estimate) else math.nan
