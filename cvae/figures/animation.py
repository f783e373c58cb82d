"""How the CVAE learns: its loss epoch by epoch, and what it predicts in between."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure
from torch import Tensor

from cvae.errors import FileError
from cvae.evaluate import draw_samples
from cvae.figures.curves import STYLES, style_axes
from cvae.figures.sheet import Sheet
from cvae.model import CVAE
from cvae.training.randomness import random_state, seed_stage, set_random_state

__all__ = ["Animation", "has_ffmpeg", "take_snapshot"]

DPI = 100
WIDTH, HEIGHT = 480, 460  # dots; video wants even numbers
CURVE = 250  # dots of the height
CELL = 84  # dots along the longer side of an image
GAP = 12  # dots between images
FRAMES_PER_SECOND = 6
# one thread, and no version in the file: the same bytes every time
MP4_OPTIONS = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-pix_fmt", "yuv420p"]

has_ffmpeg = FFMpegWriter.isAvailable  # tells whether the program that makes videos is there


def take_snapshot(cvae: CVAE, inputs: Tensor, num_samples: int, seed: int, epoch: int) -> Tensor:
    """Draw predictions after an epoch, and leave the random numbers of training as if nothing had been drawn.

    Args:
        cvae: as it is being trained.
        inputs: images with missing pixels, shape (images, h, w).
        num_samples: predictions an image, each from a latent sample of its own.
        seed: of the run.
        epoch: number of the epoch; each has random numbers of its own.

    Returns:
        Probabilities of all pixels in 255ths, uint8 of shape (samples, images, h, w), on the CPU.
    """
    state = random_state(inputs.device)
    try:
        seed_stage(seed, f"snapshots, epoch {epoch}")
        samples = draw_samples(cvae, inputs, num_samples)
    finally:
        set_random_state(inputs.device, state)
    return (samples * 255).round().to(torch.uint8).cpu()


class Animation:
    """The validation loss above, and below it images whose completion is drawn anew in each frame.

    Args:
        losses: of validation, by epoch, nats per image.
        snapshots: for each epoch completions in 255ths, uint8 of shape (samples, images, h, w): a frame for
            each sample.
        truth: the whole images, shape (images, h, w), in [0, 1].
        known: boolean (h, w): the pixels that are given.
        title: stands above the figure.

    Raises:
        FileError: the snapshots are not one for each epoch, of as many images of this size.
    """

    def __init__(
        self, losses: Sequence[float], snapshots: Sequence[Tensor], truth: Tensor, known: Tensor, title: str
    ) -> None:
        if [getattr(each, "shape", ())[1:] for each in snapshots] != [truth.shape] * len(losses):
            raise FileError("the snapshots of the checkpoint are of other images: start afresh with --overwrite")
        self.losses, self.snapshots, self.title = losses, snapshots, title
        self.truth, self.known = truth.cpu(), known.cpu()
        self.figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
        axes = self.figure.add_axes((0.13, 1 - (CURVE - 40) / HEIGHT, 0.84, (CURVE - 90) / HEIGHT))
        low, high = min(losses), max(losses)
        margin = 0.08 * (high - low) or 1.0
        axes.set(xlim=(0.5, len(losses) + 0.5), ylim=(low - margin, high + margin))
        self.line = axes.plot([], [], **STYLES["val"])[0]
        self.point = axes.plot([], [], "o", color="black", markersize=4)[0]
        style_axes(axes)
        axes.set_ylabel("nats per image", fontsize=8)
        self.heading = self.figure.text(0.02, 0.985, "", va="top", fontsize=8, linespacing=1.4)
        sheet = self._lay_out(self.truth)
        rows, columns, _ = sheet.dots.shape
        left, bottom = (WIDTH - columns) // 2, (HEIGHT - CURVE - rows) // 2
        self.images = sheet.draw(self.figure, left, bottom, text_size=8)

    def frames(self) -> Iterator[Figure]:
        """Turn the figure into one frame after another."""
        for epoch, (loss, snapshot) in enumerate(zip(self.losses, self.snapshots), 1):
            self.line.set_data(range(1, epoch + 1), self.losses[:epoch])
            self.point.set_data([epoch], [loss])
            self.heading.set_text(f"{self.title}\nEpoch {epoch}: validation loss {loss:.1f} nats per image")
            for completions in torch.where(self.known, self.truth, snapshot / 255):
                self.images.set_data(self._lay_out(completions).dots)
                yield self.figure

    def encode(self, kind: str) -> bytes:
        """Return all frames in one file.

        Args:
            kind: ``"gif"``, or ``"mp4"`` where :func:`has_ffmpeg`.

        Raises:
            OSError, subprocess.SubprocessError: ffmpeg fails, or there is no room for a temporary file.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"animation.{kind}"
            writer: AbstractMovieWriter = PillowWriter(FRAMES_PER_SECOND)
            if kind == "mp4":
                writer = FFMpegWriter(FRAMES_PER_SECOND, codec="libx264", extra_args=MP4_OPTIONS)
            with writer.saving(self.figure, str(path), DPI):
                for _ in self.frames():
                    writer.grab_frame()
            return path.read_bytes()

    def _lay_out(self, completions: Tensor) -> Sheet:
        """Lay out the truth above completions."""
        sheet = Sheet(self.known.shape, CELL, GAP)
        for row, (name, images) in enumerate({"truth": self.truth, "CVAE": completions}.items()):
            sheet.write(name, row * sheet.down + (sheet.down - GAP) / 2, -GAP, "right")
            sheet.put(images, row * sheet.down, 0, outline=self.known)
        return sheet
