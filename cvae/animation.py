"""How the CVAE learns: its validation loss epoch by epoch, and what it predicts in between."""

import io
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor

from cvae.baseline import is_missing
from cvae.data import CVAEMNIST
from cvae.evaluate import draw_samples
from cvae.figures import MARGIN, ROW_LABELS, SMALL_CELL, draw, style_axes, tile
from cvae.model import CVAE

__all__ = ["choose_inputs", "make_gif", "take_snapshot"]

NUM_CANDIDATES, NUM_COMPARED = 2000, 10_000  # the first images of each data set
NUM_NEIGHBOURS, MIN_FRACTION = 20, 0.3  # of these an ambiguous input's second label has at least


def choose_inputs(training: CVAEMNIST, images: CVAEMNIST, num_ambiguous: int) -> list[int]:
    """Choose images by the labels of the training images whose known pixels are nearest.

    The first choice is clear: all its neighbours have its own label.  The others are ambiguous: two
    labels, one of them its own, are about equally frequent among its neighbours.  Each is of
    another pair of labels, such as 4 and 9, the most frequent pair first.

    Args:
        training, images: those to look for neighbours in, and to choose from; equal pixels known.
        num_ambiguous: how many to choose, besides the clear one; the first images fill up.

    Returns:
        ``1 + num_ambiguous`` different indices into ``images``, or fewer if it has fewer.
    """
    compared, candidates = training[:NUM_COMPARED], images[:NUM_CANDIDATES]
    known = ~is_missing(candidates["input"][0])
    pixels = [each["original"].squeeze(-3)[:, known].cpu() * 255 for each in (compared, candidates)]
    # Whole numbers in double precision are exact, so the choice is the same on every machine.
    far, near = (each.round().double() for each in pixels)
    distances = far.square().sum(1) - 2 * near @ far.t()  # squared, up to a constant per candidate
    nearest = distances.topk(min(NUM_NEIGHBOURS, len(far)), largest=False).indices
    labels, own = compared["digit"].cpu()[nearest].tolist(), candidates["digit"].tolist()
    clear, ambiguous = [], defaultdict(list)  # the latter by the pair of labels
    for index, (label, neighbours) in enumerate(zip(own, labels, strict=True)):
        counts = dict(Counter(neighbours).most_common(2))
        evenness = min(counts.values()) / len(neighbours)
        if label in counts and evenness == 1:
            clear.append(index)
        elif label in counts and evenness >= MIN_FRACTION:
            ambiguous[frozenset(counts)].append((evenness, -index))
    pairs = sorted(ambiguous, key=lambda pair: len(ambiguous[pair]), reverse=True)[:num_ambiguous]
    clear.sort(key=lambda index: any(own[index] in pair for pair in pairs))
    most_even = [-max(ambiguous[pair])[1] for pair in pairs]
    return list(dict.fromkeys([*clear[:1], *most_even, *range(len(own))]))[: 1 + num_ambiguous]


def take_snapshot(cvae: CVAE, inputs: Tensor, num_samples: int, seed: int, epoch: int) -> Tensor:
    """Draw predictions in 255ths, uint8 of shape (samples, images, h, w), on the CPU.

    Args:
        cvae, inputs, num_samples: as for :func:`cvae.evaluate.draw_samples`.
        seed, epoch: of the run; each has its own random numbers, and training's stay as they were.
    """
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        torch.manual_seed(random.Random(f"{seed} snapshots, epoch {epoch}").getrandbits(32))
        return (draw_samples(cvae, inputs, num_samples) * 255).round().byte().cpu()


def make_gif(
    losses: Sequence[float],
    snapshots: Sequence[Tensor],
    truth: Tensor,
    known: Tensor,
    title: str,
    first_phase: int = 0,
) -> bytes:
    """Animate training as a GIF that repeats: validation loss above, truth and completions below.

    Args:
        losses: validation loss of each epoch, nats per image.
        snapshots: of each epoch, as from :func:`take_snapshot`; each sample is a frame.
        truth, known, title: as for :func:`cvae.figures.plot_samples`.
        first_phase: number of epochs before those whose losses are another bound, or 0.
    """
    truth, known, frames = truth.cpu(), known.cpu(), []
    scale = max(1, round(SMALL_CELL / max(known.shape)))
    for epoch, (loss, snapshot) in enumerate(zip(losses, snapshots, strict=True), 1):
        completions = (snapshot / 255).where(~known, truth)
        pictures = [tile(torch.stack([truth, each]), scale, known) for each in completions]
        height, width, _ = pictures[0].shape
        name = "tighter bound" if 0 < first_phase < epoch else "validation loss"
        heading = f"{title}\nEpoch {epoch}: {name} {loss:.1f} nats per image"
        labels = [(-MARGIN, height / 4, "truth"), (-MARGIN, height * 3 / 4, "CVAE")]
        figure = draw(pictures[0], heading, labels, left=ROW_LABELS, top=235, dpi=100)
        across, up = figure.bbox.size
        axes = figure.add_axes((60 / across, (height + 72) / up, 1 - 80 / across, 180 / up))
        axes.plot(range(1, len(losses) + 1), losses, alpha=0)  # for the same limits in every frame
        start = first_phase if epoch > first_phase else 0
        axes.plot(range(1, start + 1), losses[:start], "-", color="#0072B2")
        last = losses[start:epoch]
        axes.plot(range(start + 1, epoch + 1), last, "o-", color="#0072B2", markevery=[-1])
        style_axes(axes, "nats per image")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        frame = np.array(canvas.buffer_rgba())[..., :3]
        for picture in pictures:
            frame[-MARGIN - height : -MARGIN, MARGIN + ROW_LABELS :][:, :width] = picture
            frames.append(Image.fromarray(frame.copy()))
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=160, loop=0)
    return file.getvalue()
