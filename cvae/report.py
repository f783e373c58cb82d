"""The files that a run leaves: weights, figures, the table, and every figure with its provenance."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn as nn

from cvae.evaluate import Estimate, Evaluation
from cvae.files import replacing

__all__ = [
    "Results",
    "Table",
    "as_plain",
    "save_tables",
    "save_weights",
    "setting_name",
    "with_error",
]

Results = dict[int, dict[str, Evaluation]]  # number of known quadrants: key of the split: evaluation

SPLITS = {"val": "validation", "test": "test"}


def save_weights(output_dir: Path, num_quadrant_inputs: int, nets: dict[str, nn.Module]) -> None:
    """Write the plain state dicts ``{name}_q{n}.pth``.

    Args:
        output_dir: an existing folder.
        num_quadrant_inputs: the n of the file names.
        nets: by name, ``baseline_net`` and ``cvae_net``.

    Raises:
        OSError: a file can't be written; the one of that name that was there stays whole.
    """
    for name, net in nets.items():
        weights = {key: value.cpu() for key, value in net.state_dict().items()}
        with replacing(output_dir / f"{name}_q{num_quadrant_inputs}.pth") as file:
            torch.save(weights, file)


def save_tables(output_dir: Path, table: "Table", metrics: dict[str, Any]) -> None:
    """Write ``results.csv``, ``results.md`` and ``metrics.json``.

    Args:
        output_dir: an existing folder.
        table: of the settings so far.
        metrics: what ``metrics.json`` is to hold.

    Raises:
        OSError: a file can't be written; the one of that name that was there stays whole.
    """
    for name, text in (
        ("results.csv", table.values.to_csv(index_label=table.caption, lineterminator="\n")),
        ("results.md", table.markdown()),
        ("metrics.json", json.dumps(metrics, indent=2) + "\n"),
    ):
        with replacing(output_dir / name) as file:
            file.write(text.encode())


@dataclass(frozen=True)
class Table:
    """Figures as the tutorial lays them out, a column for each setting and a row for each way to estimate.

    Attributes:
        values: in nats per image, where the row does not say otherwise.
        errors: of these, in the same shape; NaN where there is none.
        caption: what they are and where they come from.
    """

    values: pd.DataFrame
    errors: pd.DataFrame
    caption: str

    @classmethod
    def of_run(cls, results: Results, metrics: dict[str, Any], diagnostics: bool = False) -> "Table":
        """Lay out one run, with standard errors over images.

        Args:
            results: what came out, for each setting the same splits.
            metrics: where it comes from: ``splits``, ``recipe``, ``seed`` and ``arguments``.
            diagnostics: append their rows.
        """
        columns: dict[str, dict[str, Estimate | float]] = {}
        for n, evaluations in results.items():
            for split, evaluation in evaluations.items():
                name = setting_name(n) + (f", {SPLITS[split]}" if len(evaluations) > 1 else "")
                columns[name] = {**evaluation.rows, **(evaluation.diagnostics if diagnostics else {})}
        values = pd.DataFrame({name: {row: _value(x) for row, x in c.items()} for name, c in columns.items()})
        errors = pd.DataFrame({name: {row: _error(x) for row, x in c.items()} for name, c in columns.items()})
        return cls(
            values, errors, f"{_caption(metrics)}, seed {metrics['seed']}; ± standard error over images"
        )

    @classmethod
    def of_seeds(cls, tables: Sequence["Table"], metrics: dict[str, Any]) -> "Table":
        """Lay out the means of several runs, with standard deviations over their seeds."""
        by_row = pd.concat([table.values for table in tables]).groupby(level=0, sort=False)
        seeds = ", ".join(map(str, metrics["seeds"]))
        caption = f"{_caption(metrics)}; mean of seeds {seeds} ± standard deviation over them"
        return cls(by_row.mean(), by_row.std(), caption)

    def markdown(self) -> str:
        """Lay it out in Markdown, with errors."""
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


def as_plain(results: Results) -> dict[str, Any]:
    """Turn results into what JSON holds: by setting and split, rows and diagnostics."""
    return {
        f"q{n}": {split: asdict(evaluation) for split, evaluation in evaluations.items()}
        for n, evaluations in results.items()
    }


def setting_name(num_quadrant_inputs: int) -> str:
    """Name a setting as the table's columns do: ``1 quadrant``, ``2 quadrants``."""
    return f"{num_quadrant_inputs} quadrant" + ("s" if num_quadrant_inputs > 1 else "")


def with_error(value: float, error: float | None) -> str:
    """Show as many decimals as the error has meaning, and at least one."""
    if error is None or not error > 0:
        return f"{value:.1f}"
    decimals = max(1, math.ceil(-math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


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
