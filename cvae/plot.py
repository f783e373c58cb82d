"""Figures of images: the problem, samples beside one guess, and how much samples differ."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from cvae.sheet import Sheet, cell_scale

__all__ = ["plot_diversity", "plot_problem", "plot_samples"]

GAP = 8  # dots between images
GROUP_GAP = 24  # dots between groups of them
LABELS = 120  # dots, for the names of rows
HEADING = 32  # dots, for a line of names of columns
MAX_STD = 0.5  # of values in [0, 1]
SAMPLE_ROWS = 2
SMALL_CELL = 84  # dots along the longer side of one of many samples


def plot_problem(truth: Tensor, known: dict[str, Tensor]) -> Figure:
    """Draw a row for each image: whole, and for each setting what is given of it and what is not.

    Args:
        truth: the whole images, shape (images, h, w), in [0, 1].
        known: by the name of a setting, which pixels are given, boolean of shape (h, w).
    """
    images, height, width = truth.shape
    scale = cell_scale(height, width)
    across, down = width * scale + GAP, height * scale + GAP
    lefts = [across + GROUP_GAP + number * (2 * across + GROUP_GAP) for number in range(len(known))]
    sheet = Sheet(
        2 * HEADING + images * down - GAP, lefts[-1] + 2 * across - GAP, np.ones((height, width)) > 0
    )
    sheet.write("image", 1.5 * HEADING, (across - GAP) / 2)
    for (setting, pixels), left in zip(known.items(), lefts):
        sheet.known = pixels.cpu().numpy()
        sheet.write(setting, 0.5 * HEADING, left + across - GAP / 2)
        for name, place in (("given", left), ("to predict", left + across)):
            sheet.write(name, 1.5 * HEADING, place + (across - GAP) / 2)
        for row, image in enumerate(truth.cpu().numpy()):
            top = 2 * HEADING + row * down
            sheet.put(image, top, 0, scale, outlined=False)
            sheet.put(image, top, left, scale, hide="missing")
            sheet.put(image, top, left + across, scale, outlined=False, hide="known")
    return sheet.figure("The problem: predict the missing quadrants from those that are given")


def plot_samples(
    inputs: Tensor, truth: Tensor, guess: Tensor, samples: Tensor, *, title: str, masked_with: float = -1
) -> Figure:
    """Draw a column for each image, with rows Inputs, Truth, NN and one for each CVAE sample.

    Known pixels are outlined, and shown as they are in every row; missing ones are blue in the first.

    Args:
        inputs: images with missing pixels, shape (images, h, w).
        truth: the whole images, same shape, in [0, 1].
        guess: the baseline's predictions, same shape, in [0, 1].
        samples: the CVAE's predictions, shape (samples, images, h, w), in [0, 1].
        title: stands above the figure.
        masked_with: value of the missing pixels in ``inputs``.
    """
    known = (inputs[0] != masked_with).cpu().numpy()
    rows = [_completed(inputs, prediction, known) for prediction in (truth, truth, guess, *samples)]
    labels = ["Inputs", "Truth", "NN"] + [f"CVAE {number}" for number in range(1, len(samples) + 1)]
    images, height, width = inputs.shape
    scale = cell_scale(height, width)
    across, down = width * scale + GAP, height * scale + GAP
    tops = [row * down + (GROUP_GAP - GAP if row >= 3 else 0) for row in range(len(rows))]
    sheet = Sheet(tops[-1] + down - GAP, images * across - GAP, known)
    for number, (label, row, top) in enumerate(zip(labels, rows, tops)):
        sheet.write(label, top + (down - GAP) / 2, -2 * GAP, "right")
        for column, image in enumerate(row):
            sheet.put(image, top, column * across, scale, hide="" if number else "missing")
    return sheet.figure(title, LABELS)


def plot_diversity(
    inputs: Tensor,
    truth: Tensor,
    guess: Tensor,
    samples: Tensor,
    *,
    title: str,
    num_shown: int = 20,
    masked_with: float = -1,
) -> Figure:
    """Draw a band for each image: input, truth, the baseline's one answer, many samples, their mean and spread.

    Args:
        inputs: images with missing pixels, shape (images, h, w).
        truth: the whole images, same shape, in [0, 1].
        guess: the baseline's predictions, same shape, in [0, 1].
        samples: the CVAE's predictions, shape (samples, images, h, w), in [0, 1]; mean and standard
            deviation are over all of them.
        title: stands above the figure.
        num_shown: how many samples to show, the first ones.
        masked_with: value of the missing pixels in ``inputs``.
    """
    known = (inputs[0] != masked_with).cpu().numpy()
    answers = [_completed(inputs, prediction, known) for prediction in (truth, truth, guess, samples.mean(0))]
    spread = np.where(known, 0, samples.std(0, correction=0).cpu().numpy() / MAX_STD)
    shown = [_completed(inputs, sample, known) for sample in samples[:num_shown]]
    images, height, width = inputs.shape
    scale = cell_scale(height, width, SMALL_CELL)
    across, down = width * scale + GAP, height * scale + GAP
    big_across, big_down = SAMPLE_ROWS * across, SAMPLE_ROWS * down
    columns = -(-len(shown) // SAMPLE_ROWS)
    grid = 5 * big_across + GROUP_GAP
    band = big_down + GROUP_GAP - GAP
    sheet = Sheet(HEADING + images * band - (GROUP_GAP - GAP) - GAP, grid + columns * across - GAP, known)
    headings = ["Input", "Truth", "NN", "CVAE, mean", f"CVAE, std (0 to {MAX_STD})"]
    for number, heading in enumerate(headings):
        sheet.write(heading, HEADING / 2, number * big_across + (big_across - GAP) / 2)
    sheet.write("CVAE, samples", HEADING / 2, grid + (columns * across - GAP) / 2)
    for row in range(images):
        top = HEADING + row * band
        # twice the scale leaves a gap of its own between two rows of samples
        inset = (big_down - GAP - SAMPLE_ROWS * height * scale) // 2
        for number, image in enumerate([*(answer[row] for answer in answers), spread[row]]):
            sheet.put(
                image,
                top + inset,
                number * big_across + inset,
                SAMPLE_ROWS * scale,
                outlined=number < len(answers),
                hide="" if number else "missing",
            )
        for number, sample in enumerate(shown):
            place = divmod(number, columns)
            sheet.put(sample[row], top + place[0] * down, grid + place[1] * across, scale)
    return sheet.figure(title)


def _completed(inputs: Tensor, prediction: Tensor, known: np.ndarray) -> np.ndarray:
    return np.where(known, inputs.cpu().numpy(), prediction.cpu().numpy())
