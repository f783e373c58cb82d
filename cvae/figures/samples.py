"""Figures of images: the problem, samples beside the baseline's prediction, and how much samples differ."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cvae.baseline import is_missing
from cvae.data import MaskImages, setting_name
from cvae.figures.sheet import GAP, Sheet

__all__ = ["plot_diversity", "plot_problem", "plot_samples"]

GROUP_GAP = 24  # dots between groups of images
LABELS = 120  # dots, for the names of rows
HEADING = 32  # dots, for a line of names of columns
MAX_STD = 0.5  # of values in [0, 1]
SAMPLE_ROWS = 2
SMALL_CELL = 84  # dots along the longer side of one of many samples


def plot_problem(truth: Tensor) -> Figure:
    """Draw a row for each image: whole, and for each setting what is given of it and what is not.

    Args:
        truth: the whole images, shape (images, h, w), in [0, 1].
    """
    sheet = Sheet(truth.shape[1:])
    columns: list[tuple[str, int, Tensor, Tensor | None]] = [("image", 0, truth, None)]
    for n in (1, 2, 3):
        known = ~is_missing(MaskImages(n)({"original": truth[0]})["input"])
        middle = n * (2 * sheet.across + GROUP_GAP)
        sheet.write(setting_name(n), HEADING / 2, middle - GAP / 2)
        columns.append(("given", middle - sheet.across, truth.masked_fill(~known, torch.nan), known))
        columns.append(("to predict", middle, truth.masked_fill(known, torch.nan), None))
    for name, left, images, outline in columns:
        sheet.write(name, 1.5 * HEADING, left + (sheet.across - GAP) / 2)
        for row, image in enumerate(images):
            sheet.put(image[None], 2 * HEADING + row * sheet.down, left, outline)
    return sheet.figure("The problem: predict the missing quadrants from those that are given")


def plot_samples(truth: Tensor, known: Tensor, y_hat: Tensor, samples: Tensor, title: str) -> Figure:
    """Draw a column for each image, with rows Inputs, Truth, NN and one for each CVAE sample.

    Known pixels are outlined, and shown as they are in every row; missing ones are blue in the first.

    Args:
        truth: the whole images, shape (images, h, w), in [0, 1].
        known: boolean (h, w): the pixels that are given.
        y_hat: the baseline's predictions, shape (images, h, w), in [0, 1].
        samples: the CVAE's predictions, shape (samples, images, h, w), in [0, 1].
        title: stands above the figure.
    """
    sheet = Sheet(known.shape)
    rows = {"Inputs": torch.full_like(truth, torch.nan), "Truth": truth, "NN": y_hat}
    rows |= {f"CVAE {number}": sample for number, sample in enumerate(samples, 1)}
    for number, (name, images) in enumerate(rows.items()):
        top = number * sheet.down + (GROUP_GAP - GAP if number >= 3 else 0)
        sheet.write(name, top + (sheet.down - GAP) / 2, LABELS - 2 * GAP, "right")
        sheet.put(torch.where(known, truth, images), top, LABELS, known)
    return sheet.figure(title)


def plot_diversity(
    truth: Tensor, known: Tensor, y_hat: Tensor, samples: Tensor, title: str, num_shown: int = 20
) -> Figure:
    """Draw a band for each image: input, truth, the baseline's one answer, and the CVAE's many samples.

    Between them are the mean of the samples and their standard deviation in each pixel.

    Args:
        truth, known, y_hat, samples, title: as for :func:`plot_samples`; mean and standard deviation are over
            all samples.
        num_shown: how many samples to show, the first ones.
    """
    sheet = Sheet(known.shape, SMALL_CELL)
    large, band = SAMPLE_ROWS * sheet.across, SAMPLE_ROWS * sheet.down + GROUP_GAP - GAP
    inset = (SAMPLE_ROWS - 1) * GAP // 2  # centres a large image, which has no gap inside
    columns = [
        ("Input", truth.masked_fill(~known, torch.nan), known),
        ("Truth", truth, known),
        ("NN", torch.where(known, truth, y_hat), known),
        ("CVAE, mean", torch.where(known, truth, samples.mean(0)), known),
        (f"CVAE, std (0 to {MAX_STD})", samples.std(0, correction=0).masked_fill(known, 0) / MAX_STD, None),
    ]
    for column, (name, images, outline) in enumerate(columns):
        left = column * large
        sheet.write(name, HEADING / 2, left + (large - GAP) / 2)
        for number, image in enumerate(images):
            sheet.put(image[None], HEADING + number * band + inset, left + inset, outline, SAMPLE_ROWS)
    left = len(columns) * large + GROUP_GAP
    rows = torch.where(known, truth, samples[:num_shown]).chunk(SAMPLE_ROWS)
    sheet.write("CVAE, samples", HEADING / 2, left + (len(rows[0]) * sheet.across - GAP) / 2)
    for row, completions in enumerate(rows):
        for number in range(len(truth)):
            sheet.put(completions[:, number], HEADING + number * band + row * sheet.down, left, known)
    return sheet.figure(title)
