"""The losses from epoch to epoch: a table of them, and its figure."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvae.figures.sheet import titled_figure
from cvae.training.history import History

__all__ = ["STYLES", "TUTORIAL", "plot_training", "style_axes", "training_table"]

# The tutorial's table: negative CLL of NN and of CVAE (Monte Carlo), nats per image, MNIST test set.
TUTORIAL = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}

UNIT = "nats per image"
# Okabe and Ito's colours, and dashes for those who see none.
STYLES: dict[str, dict[str, Any]] = {
    "train": {"label": "training loss", "color": "#E69F00", "linestyle": "--"},
    "val": {"label": "validation loss", "color": "#0072B2", "linestyle": "-"},
    "reconstruction": {"label": "validation reconstruction", "color": "#009E73", "linestyle": "-."},
    "kl": {"label": "validation KL", "color": "#CC79A7", "linestyle": ":"},
}
COLUMNS = {key: f"{style['label']} ({UNIT})" for key, style in STYLES.items()}
REFERENCE: dict[str, Any] = {"color": "0.35", "linewidth": 1, "linestyle": (0, (1, 2))}
BEST: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5}


def training_table(histories: dict[str, History]) -> pd.DataFrame:
    """Lay out the losses of every epoch.

    Args:
        histories: by the name of the net.

    Returns:
        A row for each net and epoch; losses in nats per image, lower is better, and whether that epoch's
        weights are those of the trained net.
    """
    return pd.DataFrame(
        {"net": net, "epoch": number}
        | {column: epoch.get(key) for key, column in COLUMNS.items()}
        | {"best": number == history.best_epoch}
        for net, history in histories.items()
        for number, epoch in enumerate(history.epochs, 1)
    )


def plot_training(table: pd.DataFrame, title: str, references: dict[str, float] | None = None) -> Figure:
    """Draw the losses of each net, and the two terms of the bound separately.

    Args:
        table: as from :func:`training_table`, of ``baseline`` and ``CVAE``.
        title: stands above the figure.
        references: the tutorial's results by net, nats per image.
    """
    figure = titled_figure(title, height=700, width=2000, top=14, left=20)
    up = round(figure.bbox.height)  # dots
    figure.subplots_adjust(left=0.055, right=0.99, wspace=0.25, bottom=90 / up, top=630 / up)
    panels = [
        ("baseline", "baseline", ("train", "val")),
        ("CVAE", "CVAE: negative lower bound", ("train", "val")),
        ("CVAE", "CVAE: its two terms", ("reconstruction", "kl")),
    ]
    for axes, (net, name, keys) in zip(figure.subplots(1, len(panels)), panels):
        rows = table[table["net"] == net].set_index("epoch")
        best = rows[rows["best"]]
        axes.set_title(name, fontsize=9)
        marker = "o" if len(rows) == 1 else None
        for key in keys:
            axes.plot(rows[COLUMNS[key]], linewidth=1.5, marker=marker, markersize=3, **STYLES[key])
        if "val" in keys and references:
            axes.axhline(references[net], label=f"tutorial: {references[net]:.1f}", **REFERENCE)
        for number, key in enumerate(key for key in keys if key != "train"):
            label = None if number else f"best: epoch {best.index[0]}"  # once in the legend
            axes.plot(best[COLUMNS[key]], "o", label=label, **BEST)
        axes.legend(fontsize=7, frameon=False)
        style_axes(axes)
    return figure


def style_axes(axes: Axes) -> None:
    """Give axes over epochs the look that they have in common."""
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel(f"{UNIT}, lower is better", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
