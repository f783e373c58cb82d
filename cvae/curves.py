"""How losses went from epoch to epoch: a table of them, and its figure."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvae.progress import History
from cvae.sheet import DPI, TITLE, wrapped

__all__ = ["TUTORIAL", "plot_training", "training_table"]

# The tutorial's table: negative CLL of NN and of CVAE (Monte Carlo), nats per image, MNIST test set.
TUTORIAL = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}

COLUMNS = {
    "train": "training loss",
    "val": "validation loss",
    "reconstruction": "validation reconstruction",
    "kl": "validation KL",
}
UNIT = "nats per image"
WIDTH, HEIGHT = 10.0, 3.5  # inches, without the title
TITLE_LINE = 0.15
# Okabe and Ito's colours, and dashes for those who see none.
STYLES: dict[str, dict[str, Any]] = {
    "training loss": {"color": "#E69F00", "linestyle": "--"},
    "validation loss": {"color": "#0072B2", "linestyle": "-"},
    "validation reconstruction": {"color": "#009E73", "linestyle": "-."},
    "validation KL": {"color": "#CC79A7", "linestyle": ":"},
}


def training_table(histories: dict[str, History]) -> pd.DataFrame:
    """Lay out the losses of every epoch.

    Args:
        histories: by the name of the net.

    Returns:
        A row for each net and epoch; losses in nats per image, lower is better, and whether that epoch's
        weights are the ones that were kept.
    """
    rows = [
        {
            "net": net,
            "epoch": number,
            **{f"{name} ({UNIT})": epoch.get(key) for key, name in COLUMNS.items()},
            "kept": number == history.best_epoch,
        }
        for net, history in histories.items()
        for number, epoch in enumerate(history.epochs, 1)
    ]
    return pd.DataFrame(rows)


def plot_training(table: pd.DataFrame, title: str, references: dict[str, float] | None = None) -> Figure:
    """Draw the losses of each net, and the two terms of the bound apart.

    Args:
        table: as from :func:`training_table`, of ``baseline`` and ``CVAE``.
        title: stands above the figure.
        references: by net, the tutorial's figures, nats per image.
    """
    lines = wrapped(title, int(0.98 * WIDTH * DPI))
    height = HEIGHT + TITLE_LINE * len(lines)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.subplots_adjust(
        left=0.055,
        right=0.99,
        wspace=0.25,
        bottom=0.45 / height,
        top=1 - (0.35 + TITLE_LINE * len(lines)) / height,
    )
    figure.text(0.01, 1 - 0.07 / height, "\n".join(lines), fontsize=TITLE, va="top", linespacing=1.3)
    panels = [
        ("baseline", "baseline", ("train", "val")),
        ("CVAE", "CVAE: negative lower bound", ("train", "val")),
        ("CVAE", "CVAE: its two terms", ("reconstruction", "kl")),
    ]
    for axes, (net, name, keys) in zip(figure.subplots(1, len(panels)), panels):
        rows = table[table["net"] == net].set_index("epoch")
        axes.set_title(name, fontsize=9)
        for key in keys:
            _draw_losses(axes, rows, COLUMNS[key])
        if "val" in keys and references:
            axes.axhline(
                references[net],
                color="0.35",
                linewidth=1,
                linestyle=(0, (1, 2)),
                label=f"tutorial: {references[net]:.1f}",
            )
        _mark_kept(axes, rows, [COLUMNS[key] for key in keys if key != "train"])
        axes.legend(fontsize=7, frameon=False)
        finish(axes)
    return figure


def finish(axes: Axes) -> None:
    """Give axes over epochs the look that they have in common."""
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel(f"{UNIT}, lower is better", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_losses(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    marker = "o" if len(rows) == 1 else None
    axes.plot(
        rows.index,
        rows[f"{name} ({UNIT})"],
        label=name,
        linewidth=1.5,
        marker=marker,
        markersize=3,
        **STYLES[name],
    )


def _mark_kept(axes: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    kept = rows[rows["kept"]]
    for number, name in enumerate(names):
        axes.plot(
            kept.index,
            kept[f"{name} ({UNIT})"],
            "o",
            markerfacecolor="white",
            markeredgecolor="black",
            markersize=5,
            label=None if number else f"kept: epoch {kept.index[0]}",
        )
