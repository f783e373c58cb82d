"""The sample figure: what is known, what is true, and what the two models predict."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["plot_samples"]

MISSING = (0.45, 0.62, 0.80)  # a blue that no grey pixel can be taken for
CELL = 0.62  # inches along the longer side of an image
GAP = 2 / 28  # of that side, between images
GROUP_GAP = 6 / 28  # more, between the samples and what they are compared with


def plot_samples(
    inputs: Tensor, truth: Tensor, guess: Tensor, samples: Tensor, *, title: str, masked_with: float = -1
) -> Figure:
    """Draw a column for each image, with rows Inputs, Truth, NN and one for each CVAE sample.

    Known pixels are shown as they are in every row; missing ones are blue in the first.

    Args:
        inputs: images with missing pixels, shape (images, h, w).
        truth: the whole images, same shape, in [0, 1].
        guess: the baseline's predictions, same shape, in [0, 1].
        samples: the CVAE's predictions, shape (samples, images, h, w), in [0, 1].
        title: stands above the figure.
        masked_with: value of the missing pixels in ``inputs``.
    """
    known = (inputs != masked_with).cpu().numpy()
    given = inputs.cpu().numpy()
    rows = [truth.cpu().numpy()]
    rows += [np.where(known, given, prediction.cpu().numpy()) for prediction in (guess, *samples)]
    coloured = [np.where(known[..., None], given[..., None], MISSING)]
    coloured += [np.repeat(row[..., None], 3, axis=-1) for row in rows]
    labels = ["Inputs", "Truth", "NN"] + [f"CVAE {number}" for number in range(1, len(samples) + 1)]

    side = max(inputs.shape[-2:])
    gap, group_gap = round(GAP * side), round(GROUP_GAP * side)
    tops = [row * (inputs.shape[-2] + gap) + (group_gap if row >= 3 else 0) for row in range(len(labels))]
    sheet = _mosaic(coloured, tops, gap)
    height, width = sheet.shape[:2]
    inches = CELL / side
    figure = Figure(figsize=(max(width * inches, 3.0) + 1.0, height * inches + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest", extent=(0, width, height, 0))
    axes.set_yticks([top + inputs.shape[-2] / 2 for top in tops], labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left", wrap=True)
    return figure


def _mosaic(rows: list[np.ndarray], tops: list[int], gap: int) -> np.ndarray:
    """Put rows of images, each (images, h, w, 3), on one white sheet."""
    images, height, width, _ = rows[0].shape
    sheet = np.ones((tops[-1] + height, images * (width + gap) - gap, 3))
    for row, top in zip(rows, tops):
        for column, image in enumerate(row):
            left = column * (width + gap)
            sheet[top : top + height, left : left + width] = image
    return sheet
