"""Figures of images: the problem, samples beside the baseline's prediction, and how much samples differ."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cvae.data import MaskImages, setting_name
from cvae.figures.sheet import GAP, Sheet, grid_steps

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
    images, height, width = truth.shape
    scale, down, across = grid_steps(height, width)
    group = 2 * across + GROUP_GAP
    whole = truth.cpu().numpy()[:, None]  # a column of images
    sheet = Sheet(2 * HEADING + images * down - GAP, across + 3 * group - GAP, np.ones((height, width), bool))
    sheet.write("image", 1.5 * HEADING, (across - GAP) / 2)
    sheet.put(whole, (2 * HEADING, 0), scale, (down, across), outlined=False)
    for n in (1, 2, 3):
        sheet.known = (MaskImages(n)({"original": truth[0]})["input"] == truth[0]).cpu().numpy()
        middle = n * group
        sheet.write(setting_name(n), 0.5 * HEADING, middle - GAP / 2)
        for name, left, hide in (("given", middle - across, "missing"), ("to predict", middle, "known")):
            sheet.write(name, 1.5 * HEADING, left + (across - GAP) / 2)
            sheet.put(whole, (2 * HEADING, left), scale, (down, across), name == "given", hide)
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
    images, height, width = truth.shape
    scale, down, across = grid_steps(height, width)
    labels = ["Inputs", "Truth", "NN"] + [f"CVAE {number}" for number in range(1, len(samples) + 1)]
    sheet_height = len(labels) * down + GROUP_GAP - 2 * GAP
    sheet = Sheet(sheet_height, LABELS + images * across - GAP, known.cpu().numpy())
    rows = _complete(truth, known, torch.stack([truth, truth, y_hat, *samples]))
    for number, label in enumerate(labels):
        top = number * down + (GROUP_GAP - GAP if number >= 3 else 0)
        hide = "" if number else "missing"
        sheet.write(label, top + (down - GAP) / 2, LABELS - 2 * GAP, "right")
        sheet.put(rows[number : number + 1], (top, LABELS), scale, (down, across), hide=hide)
    return sheet.figure(title)


def plot_diversity(
    truth: Tensor, known: Tensor, y_hat: Tensor, samples: Tensor, title: str, num_shown: int = 20
) -> Figure:
    """Draw a band for each image: input, truth, the baseline's one answer, and the CVAE's many samples.

    Between them are the mean of the samples and their standard deviation in each pixel.

    Args:
        truth: the whole images, shape (images, h, w), in [0, 1].
        known: boolean (h, w): the pixels that are given.
        y_hat: the baseline's predictions, shape (images, h, w), in [0, 1].
        samples: the CVAE's predictions, shape (samples, images, h, w), in [0, 1]; mean and standard
            deviation are over all of them.
        title: stands above the figure.
        num_shown: how many samples to show, the first ones.
    """
    images, height, width = truth.shape
    scale, down, across = grid_steps(height, width, SMALL_CELL)
    big_across, band = SAMPLE_ROWS * across, SAMPLE_ROWS * down + GROUP_GAP - GAP
    inset = (SAMPLE_ROWS - 1) * GAP // 2  # centres a large image, which has no gap inside
    shown = _complete(truth, known, samples[:num_shown]).swapaxes(0, 1)
    columns = -(-shown.shape[1] // SAMPLE_ROWS)
    grid = 5 * big_across + GROUP_GAP
    sheet = Sheet(HEADING + images * band - GROUP_GAP, grid + columns * across - GAP, known.cpu().numpy())
    headings = ["Input", "Truth", "NN", "CVAE, mean", f"CVAE, std (0 to {MAX_STD})"]
    spread = (samples.std(0, correction=0) / MAX_STD).masked_fill(known, 0).cpu().numpy()
    large = [*_complete(truth, known, torch.stack([truth, truth, y_hat, samples.mean(0)])), spread]
    for number, (heading, values) in enumerate(zip(headings, large)):
        left, hide = number * big_across, "" if number else "missing"
        sheet.write(heading, HEADING / 2, left + (big_across - GAP) / 2)
        corner = (HEADING + inset, left + inset)
        sheet.put(values[:, None], corner, SAMPLE_ROWS * scale, (band, 0), values is not spread, hide)
    sheet.write("CVAE, samples", HEADING / 2, grid + (columns * across - GAP) / 2)
    for row in range(SAMPLE_ROWS):
        part = shown[:, row * columns : (row + 1) * columns]
        sheet.put(part, (HEADING + row * down, grid), scale, (band, across))
    return sheet.figure(title)


def _complete(truth: Tensor, known: Tensor, prediction: Tensor) -> np.ndarray:
    return torch.where(known, truth, prediction).cpu().numpy()
