"""Figures from arrays, numbers and a title.  A dot is one of a figure, a pixel one of an image."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from cvae.files import atomic_write

__all__ = ["default_style", "draw", "plot_completions", "plot_differences", "plot_diversity"]
__all__ += ["plot_problem", "plot_samples", "plot_training", "save_figure", "style_axes", "tile"]
__all__ += ["training_table"]

DPI = 200
CELL, SMALL_CELL = 112, 84  # dots along the longer side of an image, about
GAP, GROUP_GAP, MARGIN = 8, 24, 16  # dots between images, between groups, around everything
ROW_LABELS, COLUMN_LABELS = 120, 32  # dots for the names of rows, and for a line of names above
MISSING = (115, 158, 204)  # a blue that differs from every grey
OUTLINE = (230, 159, 0)  # an orange that the colour-blind can tell from the blue

# Name, one of Okabe and Ito's colours, and dashes for those who can't tell these apart.
LOSSES = {
    "train": ("training loss", "#E69F00", "--"),
    "val": ("validation loss", "#0072B2", "-"),
    "reconstruction": ("validation reconstruction", "#009E73", "-."),
    "kl": ("validation KL", "#CC79A7", ":"),
}
STYLES = [(colour, dashes) for _, colour, dashes in LOSSES.values()] + [("#D55E00", "-")]
COLUMNS = {key: f"{name} (nats per image)" for key, (name, _, _) in LOSSES.items()}


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Draw with matplotlib's defaults, not the user's settings; what its font lacks is a box."""
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def tile(images: Tensor, scale: int, outlined: Tensor | None = None) -> np.ndarray:
    """Tile a grid of images into one picture, uint8 of shape (height, width, 3) in dots.

    Args:
        images: shape (rows, columns, h, w), in [0, 1]; NaN is drawn blue, as missing.
        scale: dots along each side of a pixel.
        outlined: pixels to draw an orange line around, just inside, bool that broadcasts to images.
    """
    values = F.interpolate(images.float().cpu(), scale_factor=scale)
    dots = (values.clamp(0, 1) * 255).nan_to_num().round().byte()[..., None].repeat(1, 1, 1, 1, 3)
    dots[values.isnan()] = torch.tensor(MISSING, dtype=torch.uint8)
    if outlined is not None:
        outside = 1 - F.interpolate(outlined.float().cpu().expand(images.shape), scale_factor=scale)
        near_outside = F.max_pool2d(F.pad(outside, [2] * 4, value=1), 5, stride=1)  # within 2 dots
        dots[near_outside > outside] = torch.tensor(OUTLINE, dtype=torch.uint8)
    dots = F.pad(dots, (0, 0, 0, GAP, 0, GAP), value=255)
    return dots.transpose(1, 2).flatten(2, 3).flatten(0, 1)[:-GAP, :-GAP].numpy()


def plot_problem(truth: Tensor, known: dict[str, Tensor]) -> Figure:
    """Draw a row for each image: the whole image, then what is given and what is to be predicted.

    Args:
        truth: the whole images, shape (images, h, w), in [0, 1].
        known: the given pixels, bool (h, w), by the name of a setting such as ``"1 quadrant"``.
    """
    scale = max(1, round(CELL / max(truth.shape[1:])))
    step = truth.shape[2] * scale + GAP
    parts, labels = [tile(truth[:, None], scale)], [((step - GAP) / 2, -16, "image")]
    for number, (name, given) in enumerate(known.items(), 1):
        cut = torch.stack([truth.where(given, torch.nan), truth.where(~given, torch.nan)], dim=1)
        parts.append(tile(cut, scale, torch.stack([given, given & False])))
        middle = number * (2 * step + GROUP_GAP - GAP) - GAP / 2
        labels += [(middle - step / 2, -16, "given"), (middle + step / 2, -16, "to predict")]
        labels += [(middle, -48, name)]
    title = "The problem: predict the missing quadrants from those that are given"
    return draw(_join(parts, axis=1), title, labels, top=2 * COLUMN_LABELS)


def plot_samples(
    truth: Tensor, known: Tensor, y_hat: Tensor, samples: Tensor, title: str
) -> Figure:
    """Draw a column for each image, with rows Inputs, Truth, NN and one for each CVAE sample.

    Known pixels are outlined and the same in every row; missing ones are blue in the first row.

    Args:
        truth, y_hat: the whole images and the baseline's, shape (images, h, w), in [0, 1].
        known: the given pixels, bool (h, w).
        samples: the CVAE's predictions, shape (samples, images, h, w), in [0, 1].
        title: stands above the figure, wrapped where it is too long.
    """
    first = {"Inputs": truth.where(known, torch.nan), "Truth": truth, "NN": y_hat}
    return _draw_groups(first, truth, known, samples, title, axis=0)


def plot_completions(
    images: Tensor, known: Tensor, mean: Tensor, samples: Tensor, title: str
) -> Figure:
    """Draw a row for each image: what is given of it, the mean of its completions, and samples.

    Args:
        images, mean: shape (images, h, w), in [0, 1].
        known, samples, title: as for :func:`plot_samples`.
    """
    first = {"Input": images.where(known, torch.nan), "Mean": mean}
    return _draw_groups(first, images, known, samples, title, axis=1)


def _draw_groups(
    first: dict[str, Tensor], truth: Tensor, known: Tensor, samples: Tensor, title: str, axis: int
) -> Figure:
    """Draw the first images by name, then samples, in rows (axis 0) or in columns (axis 1)."""
    scale = max(1, round(CELL / max(known.shape)))
    groups = [group.where(~known, truth) for group in (torch.stack([*first.values()]), samples)]
    pictures = [tile(group.transpose(0, axis), scale, known) for group in groups]
    size, labels = known.shape[axis] * scale, []
    for n, name in enumerate([*first, *(f"CVAE {n + 1}" for n in range(len(samples)))]):
        middle = n * (size + GAP) + (n >= len(first)) * (GROUP_GAP - GAP) + size / 2
        labels.append((middle, -16, name) if axis else (-16, middle, name))
    space = {"top": COLUMN_LABELS} if axis else {"left": ROW_LABELS}
    return draw(_join(pictures, axis), title, labels, **space)


def plot_diversity(
    truth: Tensor, known: Tensor, y_hat: Tensor, samples: Tensor, title: str, num_shown: int = 20
) -> Figure:
    """Draw a row for each image: the baseline's one answer, and the CVAE's many samples.

    Args:
        truth, known, y_hat, samples, title: as for :func:`plot_samples`.
        num_shown: how many to show, an even number, in two rows; mean and deviation are over all.
    """
    scale = max(1, round(SMALL_CELL / max(known.shape)))
    samples = samples.where(~known, truth)
    std = 2 * samples.std(0, correction=0)  # which is at most 0.5 for values in [0, 1]
    large = [truth.where(known, torch.nan), truth, y_hat.where(~known, truth), samples.mean(0), std]
    outlined = torch.stack([*[known] * 4, known & False])
    small, bands = samples[:num_shown].unflatten(0, (2, -1)), []
    for image in range(len(truth)):
        left = tile(torch.stack(large)[None, :, image], 2 * scale, outlined)
        left = np.pad(left, ((GAP // 2, GAP // 2), (0, 0), (0, 0)), constant_values=255)
        bands.append(_join([left, tile(small[:, :, image], scale, known)], axis=1))
    names = ["Input", "Truth", "NN", "CVAE, mean", "CVAE, std (0 to 0.5)"]
    step = 2 * scale * known.shape[1] + GAP
    labels = [(n * step + (step - GAP) / 2, -16, name) for n, name in enumerate(names)]
    labels += [((left.shape[1] + GROUP_GAP + bands[0].shape[1]) / 2, -16, "CVAE, samples")]
    return draw(_join(bands, axis=0), title, labels, top=COLUMN_LABELS)


def training_table(
    histories: dict[str, list[dict[str, float]]], best_epochs: dict[str, int]
) -> pd.DataFrame:
    """Lay out losses, and which epoch is the best, in a row for each net and epoch.

    Args:
        histories: by net, a dict for each epoch: ``train`` and ``val`` losses in nats per image,
            and for the CVAE the two terms of ``val``, ``reconstruction`` and ``kl``, where it is
            an ELBO.
        best_epochs: by net, the number of its best epoch, from 1.
    """
    rows = [
        [net, number, *map(epoch.get, COLUMNS), number == best_epochs[net]]
        for net, epochs in histories.items()
        for number, epoch in enumerate(epochs, 1)
    ]
    return pd.DataFrame(rows, columns=["net", "epoch", *COLUMNS.values(), "best"])


@default_style()
def plot_training(
    table: pd.DataFrame,
    title: str,
    references: dict[str, float] | None = None,
    cvae_loss: str = "negative lower bound",
) -> Figure:
    """Draw the losses of baseline and CVAE, and the two terms of the CVAE's bound.

    Args:
        table: as from :func:`training_table`, of ``"baseline"`` and ``"CVAE"``.
        title: as for :func:`plot_samples`.
        references: by net, the tutorial's result, nats per image.
        cvae_loss: what the CVAE's losses are.
    """
    figure = Figure(figsize=(10, 3.65), dpi=DPI)
    figure.set_layout_engine("constrained", wspace=0.06)
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=8, wrap=True)
    nets, bound, terms = ["baseline", "CVAE", "CVAE"], ["train", "val"], ["reconstruction", "kl"]
    panels = zip(figure.subplots(1, 3), nets, [bound, bound, terms], strict=True)
    headings = ["baseline", f"CVAE: {cvae_loss}", "CVAE: its two terms"]
    for heading, (axes, net, keys) in zip(headings, panels, strict=True):
        rows = table[table["net"] == net].set_index("epoch")
        best = rows.loc[rows["best"], [COLUMNS[key] for key in keys if key != "train"]].dropna()
        for key in keys:
            name, colour, dashes = LOSSES[key]
            dot = "o" if rows[COLUMNS[key]].count() == 1 else ""  # a line of one point is invisible
            axes.plot(rows[COLUMNS[key]], dot + dashes, color=colour, markersize=3, label=name)
        if references and "val" in keys:
            name = f"tutorial: {references[net]:.1f}"
            axes.axhline(references[net], color="0.35", linewidth=1, linestyle=":", label=name)
        if len(best):
            circles = axes.plot(best, "o", color="white", mec="black", markersize=5)
            circles[0].set_label(f"best: epoch {best.index[0]}")
        if "train" in keys:  # a jump of the training loss leaves the panel, and flattens no curve
            low, train = axes.dataLim.ymin, rows[COLUMNS["train"]]
            high = max(train.head(1).max(), rows[COLUMNS["val"]].max())
            if low < high < train.max():
                axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        tighter = rows.index[rows[COLUMNS["kl"]].isna()]
        if net == "CVAE" and len(tighter):
            name = "bound of several samples"
            axes.axvspan(tighter[0] - 0.5, tighter[-1] + 0.5, color="0.92", label=name)
        axes.set_title(heading, fontsize=9)
        axes.legend(fontsize=7, frameon=False)
        style_axes(axes, "nats per image, lower is better")
    return figure


@default_style()
def plot_differences(panels: dict[str, dict[str, np.ndarray]], title: str) -> Figure:
    """Draw differences image by image, sorted: a panel for each setting, a line for each row.

    Args:
        panels: by setting and row, shape (N,), in nats; one percent may leave the panel.
        title: as for :func:`plot_samples`.
    """
    figure = Figure(figsize=(max(6, 4 * len(panels)), 3.65), dpi=DPI, layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=8, wrap=True)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (heading, rows) in zip(all_axes, panels.items(), strict=True):
        for (row, values), (colour, dashes) in zip(rows.items(), itertools.cycle(STYLES)):
            percent = (np.arange(len(values)) + 0.5) / len(values) * 100
            axes.plot(percent, np.sort(values), dashes, color=colour, label=row)
        axes.axhline(0, color="0.35", linewidth=1)
        low, high = np.quantile([*rows.values()], [0.005, 0.995])
        if low < high:
            axes.set_ylim(low, high)
        axes.set_title(heading, fontsize=9)
        axes.legend(fontsize=7, frameon=False)
        style_axes(axes, "A − B, nats per image", "images, sorted by the difference (%)")
        axes.set_xticks(range(0, 101, 25))
    return figure


def style_axes(axes: Axes, unit: str, across: str = "epoch") -> None:
    """Give axes, which are over epochs unless said otherwise, the look that they all have."""
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)


@default_style()
def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, the same bytes for the same figure."""
    png = io.BytesIO()  # an error of drawing is none of writing
    figure.savefig(png, format="png", dpi=figure.dpi, metadata={"Software": None})
    with atomic_write(path) as file:
        file.write(png.getbuffer())


def _join(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    """Put pictures below one another (axis 0) or side by side (axis 1)."""
    gap = [(GROUP_GAP * (axis == dim), 0) for dim in range(3)]
    others = [np.pad(picture, gap, constant_values=255) for picture in pictures[1:]]
    return np.concatenate([pictures[0], *others], axis)


@default_style()
def draw(
    picture: np.ndarray, title: str, texts: list[tuple], left: int = 0, top: int = 0, dpi: int = DPI
) -> Figure:
    """Show a picture dot by dot below a title, with texts around it.

    Args:
        picture: red, green and blue, uint8 of shape (height, width, 3).
        title: wrapped where it is too long.
        texts: each as (x, y, text), in dots from the picture's upper left corner.
        left, top, dpi: dots left free beside and above the picture, and dots per inch.
    """
    height, width, _ = picture.shape
    across, up = max(left + width + 2 * MARGIN, 3 * dpi), top + height + 3 * MARGIN
    figure = Figure(figsize=(across / dpi, up / dpi), dpi=dpi)
    # An escaped dollar is never part of a formula; with parse_math=False, it still is when wrapped.
    heading = figure.text(MARGIN / across, 1 - MARGIN / up, title.replace("$", r"\$"), wrap=True)
    heading.set(va="top", fontsize=8, linespacing=1.3)
    up += int(np.ceil(heading.get_window_extent().height))
    figure.set_size_inches(across / dpi, up / dpi)
    heading.set_y(1 - MARGIN / up)
    figure.figimage(picture, MARGIN + left, MARGIN)
    for x, y, text in texts:
        place = (MARGIN + left + x) / across, (MARGIN + height - y) / up
        figure.text(*place, text, ha="right" if left else "center", va="center", fontsize=7)
    return figure
