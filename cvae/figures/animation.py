"""How the CVAE learns: its loss epoch by epoch, and what it predicts in between."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from cvae.errors import FileError
from cvae.figures.curves import STYLES, style_axes
from cvae.figures.sheet import Sheet, grid_steps

__all__ = ["Animation", "has_ffmpeg"]

DPI = 100
WIDTH, HEIGHT = 480, 460  # dots; video wants even numbers
CURVE = 250  # dots of the height
CELL = 84  # dots along the longer side of an image
GAP = 12  # dots between images
FRAMES_PER_SECOND = 6
# one thread, and no version in the file: the same bytes every time
MP4_OPTIONS = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-pix_fmt", "yuv420p"]


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
        self.losses = losses
        self.snapshots = snapshots
        self.truth = truth.cpu().numpy()
        self.known = known.cpu().numpy()
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
        self.title = title
        self.images = self._draw_images()

    def frames(self) -> Iterator[Figure]:
        """Turn the figure into one frame after another."""
        for epoch, (loss, snapshot) in enumerate(zip(self.losses, self.snapshots), 1):
            self.line.set_data(range(1, epoch + 1), self.losses[:epoch])
            self.point.set_data([epoch], [loss])
            self.heading.set_text(f"{self.title}\nEpoch {epoch}: validation loss {loss:.1f} nats per image")
            for completions in snapshot.numpy() / 255:
                self.images.set_data(self._dots(np.where(self.known, self.truth, completions)))
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

    def _draw_images(self) -> AxesImage:
        """Draw the truth below the curve, and return the image that each frame changes."""
        dots = self._dots(self.truth)
        rows, columns = dots.shape[:2]
        left, bottom = (WIDTH - columns) // 2, (HEIGHT - CURVE - rows) // 2
        axes = self.figure.add_axes((left / WIDTH, bottom / HEIGHT, columns / WIDTH, rows / HEIGHT))
        axes.set_axis_off()
        down = (rows + GAP) // 2
        for row, name in enumerate(("truth", "CVAE")):
            axes.text(-GAP, row * down + (down - GAP) / 2, name, ha="right", va="center", fontsize=8)
        return axes.imshow(dots, interpolation="none", extent=(0, columns, rows, 0), aspect="auto")

    def _dots(self, completions: np.ndarray) -> np.ndarray:
        """Lay out the truth above completions."""
        height, width = self.known.shape
        scale, down, across = grid_steps(height, width, CELL, GAP)
        sheet = Sheet(2 * down - GAP, len(self.truth) * across - GAP, self.known)
        for row, images in enumerate((self.truth, completions)):
            sheet.put(images[None], (row * down, 0), scale, (down, across))
        return sheet.dots


def has_ffmpeg() -> bool:
    """Tell whether the program is there that makes videos."""
    return FFMpegWriter.isAvailable()
