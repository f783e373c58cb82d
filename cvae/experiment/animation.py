"""How the CVAE learns: its validation loss epoch by epoch, and what it predicts in between."""

import io
import random
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from cvae.evaluate import draw_samples
from cvae.figures import MARGIN, ROW_LABELS, SMALL_CELL, default_style, draw, style_axes, tile
from cvae.history import History
from cvae.model import CVAE
from cvae.random_numbers import own_random_numbers

__all__ = ["make_gif", "take_snapshot"]


def take_snapshot(cvae: CVAE, inputs: Tensor, num_samples: int, seed: int, epoch: int) -> Tensor:
    """Draw predictions in 255ths, uint8 of shape (samples, images, h, w), on the CPU.

    Args:
        cvae, inputs, num_samples: as for :func:`cvae.evaluate.draw_samples`.
        seed, epoch: of the run; each has its own random numbers, and training's stay as they were.
    """
    with own_random_numbers(random.Random(f"{seed} snapshots, epoch {epoch}").getrandbits(32)):
        return (draw_samples(cvae, inputs, num_samples).clamp(0, 1) * 255).round().byte().cpu()


@default_style()
def make_gif(
    history: History, snapshots: Sequence[Tensor], truth: Tensor, known: Tensor, title: str
) -> bytes:
    """Animate training as a GIF that repeats: validation loss above, truth and completions below.

    Args:
        history: of the CVAE.
        snapshots: of each epoch, as from :func:`take_snapshot`; each sample is a frame.
        truth, known, title: as for :func:`cvae.figures.plot_samples`.
    """
    truth, known, frames = truth.cpu(), known.cpu(), []
    scale = max(1, round(SMALL_CELL / max(known.shape)))
    for epoch, snapshot in zip(range(1, len(history.epochs) + 1), snapshots, strict=True):
        completions = (snapshot / 255).where(~known, truth)
        pictures = [tile(torch.stack([truth, image]), scale, known) for image in completions]
        height, width, _ = pictures[0].shape
        figure = _draw_frame(history, epoch, pictures[0], title)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        frame = np.array(canvas.buffer_rgba())[..., :3]
        for picture in pictures:
            frame[-MARGIN - height : -MARGIN, MARGIN + ROW_LABELS :][:, :width] = picture
            frames.append(Image.fromarray(frame.copy()))
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=160, loop=0)
    return file.getvalue()


def _draw_frame(history: History, epoch: int, picture: np.ndarray, title: str) -> Figure:
    """Draw a picture below the validation losses of the epochs up to one."""
    losses = [losses["val"] for losses in history.epochs]
    objectives = [losses["objective"] for losses in history.epochs]
    start = objectives.index(objectives[epoch - 1])  # epochs of other objectives before
    name = "validation loss (another bound)" if start else "validation loss"
    heading = f"{title}\nEpoch {epoch}: {name} {losses[epoch - 1]:.1f} nats per image"
    height = len(picture)
    labels = [(-MARGIN, height / 4, "truth"), (-MARGIN, height * 3 / 4, "CVAE")]
    figure = draw(picture, heading, labels, left=ROW_LABELS, top=235, dpi=100)
    across, up = figure.bbox.size
    axes = figure.add_axes((60 / across, (height + 72) / up, 1 - 80 / across, 180 / up))
    axes.plot(range(1, len(losses) + 1), losses, alpha=0)  # for the same limits in every frame
    axes.plot(range(1, start + 1), losses[:start], "-", color="#0072B2")
    last = losses[start:epoch]
    axes.plot(range(start + 1, epoch + 1), last, "o-", color="#0072B2", markevery=[-1])
    style_axes(axes, "nats per image")
    return figure
