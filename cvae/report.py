"""The files that a run leaves: weights, figures, the table, and every figure with its provenance."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn as nn
from matplotlib.figure import Figure

from cvae.evaluate import Estimate

__all__ = ["Results", "markdown", "save_setting", "save_tables", "setting_name", "table"]

Results = dict[int, dict[str, Estimate]]  # number of known quadrants: row: estimate


def save_setting(
    output_dir: Path, num_quadrant_inputs: int, nets: dict[str, nn.Module], figure: Figure
) -> None:
    """Write the plain state dicts ``{name}_q{n}.pth`` and the figure ``cvae_plot_q{n}.png``.

    Args:
        output_dir: an existing folder.
        num_quadrant_inputs: the n of the file names.
        nets: by name, ``baseline_net`` and ``cvae_net``.
        figure: the sample figure.

    Raises:
        OSError: a file can't be written; the one of that name that was there stays whole.
    """
    for name, net in nets.items():
        weights = {key: value.cpu() for key, value in net.state_dict().items()}
        with _replacing(output_dir / f"{name}_q{num_quadrant_inputs}.pth") as path:
            torch.save(weights, path)
    with _replacing(output_dir / f"cvae_plot_q{num_quadrant_inputs}.png") as path:
        figure.savefig(path, format="png", dpi=150, bbox_inches="tight")


def save_tables(output_dir: Path, results: Results, metrics: dict[str, Any]) -> None:
    """Write ``results.csv``, ``results.md`` and ``metrics.json``.

    Args:
        output_dir: an existing folder.
        results: the estimates so far, by number of known quadrants.
        metrics: what else ``metrics.json`` is to hold; its ``split`` names the tables.

    Raises:
        OSError: a file can't be written; the one of that name that was there stays whole.
    """
    caption = _caption(results, metrics["split"])
    with _replacing(output_dir / "results.csv") as path:
        table(results).to_csv(path, index_label=caption)
    with _replacing(output_dir / "results.md") as path:
        path.write_text(markdown(results, metrics["split"]), encoding="utf-8")
    estimates = {f"q{n}": {row: asdict(value) for row, value in rows.items()} for n, rows in results.items()}
    with _replacing(output_dir / "metrics.json") as path:
        path.write_text(json.dumps({**metrics, "results": estimates}, indent=2) + "\n", encoding="utf-8")


def table(results: Results) -> pd.DataFrame:
    """Lay out negative CLLs, in nats per image, as the tutorial does: a column for each setting."""
    return pd.DataFrame(
        {setting_name(n): {row: value.nll for row, value in rows.items()} for n, rows in results.items()}
    )


def markdown(results: Results, split: str) -> str:
    """Lay out the same table in Markdown, with standard errors.

    Args:
        results: the estimates, by number of known quadrants.
        split: the images that they come from.
    """
    columns = [setting_name(n) for n in results]
    lines = [
        f"{_caption(results, split)}; ± standard error over images. Performance gap: baseline minus Monte Carlo.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row in next(iter(results.values())):
        cells = [_cell(rows[row]) for rows in results.values()]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(estimate: Estimate) -> str:
    error = "" if estimate.standard_error is None else f" ± {estimate.standard_error:.1f}"
    return f"{estimate.nll:.1f}{error}"


def setting_name(num_quadrant_inputs: int) -> str:
    """Name a setting as the table's columns do: ``1 quadrant``, ``2 quadrants``."""
    return f"{num_quadrant_inputs} quadrant" + ("s" if num_quadrant_inputs > 1 else "")


def _caption(results: Results, split: str) -> str:
    rows = next(iter(results.values()))
    return (
        f"negative CLL (nats per image; lower is better); {split} ({rows['NN (baseline)'].num_images:,} images); "
        f"Monte Carlo {rows['CVAE (Monte Carlo)'].num_particles} and the others "
        f"{rows['CVAE (importance sampling)'].num_particles} particles"
    )


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place once it is written in full."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
