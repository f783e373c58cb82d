"""The networks and variables of the model, drawn as a graph."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon

from cvae.figures.sheet import DPI

__all__ = ["arrows", "plot_model"]

RADIUS = 0.34  # of a variable's circle
HEAD_LENGTH = 0.2  # of an arrow
HEAD_WIDTH = 0.07  # half of it
PLACES = {"x": (0.0, 0.0), "y_hat": (-0.95, 1.45), "z": (0.55, 2.3), "y": (1.6, 0.0)}
SYMBOLS = {"x": "$\\mathbf{x}$", "y": "$\\mathbf{y}$", "z": "$\\mathbf{z}$", "y_hat": "$\\hat{\\mathbf{y}}$"}


def arrows(generation_input: str = "z") -> dict[str, list[tuple[str, str]]]:
    """Return, by network, which variables it computes from which: pairs of a source and a target.

    Args:
        generation_input: what the generation network sees, ``"z"`` or ``"xz"``.
    """
    return {
        "baseline_net": [("x", "y_hat")],
        "recognition_net": [("x", "z"), ("y", "z")],
        "prior_net": [("x", "z"), ("y_hat", "z")],
        "generation_net": [(source, "y") for source in generation_input],
    }


def plot_model(generation_input: str = "z") -> Figure:
    """Draw baseline, recognition, and generation on top of the baseline.

    After Sohn, Lee, Yan (2015), figure 1.  Arrows are solid for generation and dashed for recognition;
    variables that are observed are grey.

    Args:
        generation_input: what the generation network sees, ``"z"`` or ``"xz"``.
    """
    formulas = f"prior net  $p(z|x, \\hat{{y}})$\ngeneration net  $p(y|{', '.join(generation_input)})$"
    panels = [
        ("(a) baseline", ["baseline_net"], "baseline net  $\\hat{y}(x)$"),
        ("(b) recognition, in training", ["recognition_net"], "recognition net  $q(z|x, y)$"),
        ("(c) generation, on top of the baseline", ["baseline_net", "prior_net", "generation_net"], formulas),
    ]
    figure = Figure(figsize=(7.6, 3.0), dpi=DPI)
    for axes, (title, nets, caption) in zip(figure.subplots(1, len(panels)), panels):
        pairs = [pair for net in nets for pair in arrows(generation_input)[net]]
        for source, target in pairs:
            _draw_arrow(axes, source, target, dashed=nets == ["recognition_net"])
        computed = {target for _, target in pairs}
        names = sorted({name for pair in pairs for name in pair})
        for name in names:
            colour = "white" if name in computed else "0.82"
            axes.add_patch(Circle(PLACES[name], RADIUS, facecolor=colour, edgecolor="black", zorder=2))
            axes.text(*PLACES[name], SYMBOLS[name], ha="center", va="center", fontsize=13, zorder=3)
        across = [PLACES[name][0] for name in names]
        middle = (min(across) + max(across)) / 2
        axes.set_title(title, fontsize=9)
        axes.text(middle, -0.6, caption, ha="center", va="top", fontsize=9, linespacing=1.4)
        axes.set(xlim=(middle - 2, middle + 2), ylim=(-1.5, 2.75), aspect="equal")
        axes.set_axis_off()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.91, wspace=0.02)
    return figure


def _draw_arrow(axes: Axes, source: str, target: str, dashed: bool) -> None:
    start, end = np.array(PLACES[source]), np.array(PLACES[target])
    along = (end - start) / np.linalg.norm(end - start)
    start, end = start + RADIUS * along, end - RADIUS * along
    neck, across = end - HEAD_LENGTH * along, HEAD_WIDTH * np.array([-along[1], along[0]])
    axes.plot(*zip(start, neck), color="black", linewidth=1.3, linestyle=(0, (4, 3)) if dashed else "solid")
    axes.add_patch(Polygon([end, neck + across, neck - across], color="black", linewidth=0))
