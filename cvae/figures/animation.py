"""How the CVAE learns: its loss epoch by epoch, and what it predicts in between."""

import io
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from cvae.errors import FileError
from cvae.evaluate import draw_samples
from cvae.figures.curves import STYLES, style_axes
from cvae.figures.sheet import Sheet, drawable
from cvae.model import CVAE
from cvae.training.randomness import random_state, seed_stage, set_random_state

__all__ = ["Animation", "encode_gif", "encode_mp4", "take_snapshot"]

DPI = 100
WIDTH, HEIGHT = 480, 460  # dots; video wants even numbers
CURVE = 250  # dots of the height
CELL = 84  # dots along the longer side of an image
GAP = 12  # dots between images
FRAMES_PER_SECOND = 6
# one thread, and no version in the file: the same bytes every time
MP4_OPTIONS = ["-codec:v", "libx264", "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
MP4_OPTIONS += ["-pix_fmt", "yuv420p"]  # what every player shows


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
        self.losses, self.snapshots, self.title = losses, snapshots, drawable(title)
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
        self.heading = self.figure.text(0.02, 0.985, "", va="top", fontsize=8, linespacing=1.4, parse_math=False)
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

    def render(self) -> list[Image.Image]:
        """Draw every frame once."""
        canvas, images = FigureCanvasAgg(self.figure), []
        for _ in self.frames():
            canvas.draw()
            images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
        return images

    def _lay_out(self, completions: Tensor) -> Sheet:
        """Lay out the truth above completions."""
        sheet = Sheet(self.known.shape, CELL, GAP)
        for row, (name, images) in enumerate({"truth": self.truth, "CVAE": completions}.items()):
            sheet.write(name, row * sheet.down + (sheet.down - GAP) / 2, -GAP, "right")
            sheet.put(images, row * sheet.down, 0, outline=self.known)
        return sheet


def encode_gif(frames: Sequence[Image.Image]) -> bytes:
    """Return the frames as a GIF that repeats for ever."""
    file = io.BytesIO()
    duration = 1000 // FRAMES_PER_SECOND  # milliseconds
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return file.getvalue()


def encode_mp4(frames: Sequence[Image.Image]) -> bytes:
    """Return the frames as an MP4 video.

    Raises:
        OSError, subprocess.SubprocessError: ffmpeg is missing or fails, or there is no room for a temporary file.
    """
    dots = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{WIDTH}x{HEIGHT}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "animation.mp4"
        subprocess.run(
            ["ffmpeg", *dots, "-framerate", str(FRAMES_PER_SECOND), "-i", "-", *MP4_OPTIONS, str(path)],
            input=b"".join(frame.tobytes() for frame in frames),
            check=True,
            capture_output=True,
        )
        return path.read_bytes()
