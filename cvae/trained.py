"""A trained model, taken from an output folder to be used on images."""

import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import StackDataset

from cvae.baseline import is_missing
from cvae.data import MaskImages, Sample
from cvae.estimators import estimate_cll
from cvae.evaluate import draw_samples
from cvae.files import FILES, FileError, read_tensors
from cvae.model import CVAE

__all__ = ["TrainedCVAE"]

_pyro_lock = threading.Lock()  # Pyro keeps in global variables what it is doing


class TrainedCVAE:
    """A CVAE and the quadrants that it was trained to start from.

    Args:
        cvae, num_quadrant_inputs: the model, and its number of known quadrants: 1, 2 or 3.
        image_shape: height and width of its images; by default they are square.

    Raises:
        ValueError: ``num_quadrant_inputs`` is not 1, 2 or 3, or the model has other images.
    """

    def __init__(
        self, cvae: CVAE, num_quadrant_inputs: int, image_shape: Sequence[int] | None = None
    ) -> None:
        num_pixels = cvae.baseline_net.num_pixels
        shape = tuple(image_shape or [math.isqrt(num_pixels)] * 2)
        if len(shape) != 2 or math.prod(shape) != num_pixels:
            raise ValueError(f"a model of {num_pixels} pixels can't have images of shape {shape}")
        self.cvae = cvae.eval()
        self.mask = MaskImages(num_quadrant_inputs)
        self.known = ~is_missing(self.mask({"original": torch.zeros(shape)})["input"])  # (h, w)

    @classmethod
    def load(
        cls, folder: str | Path, num_quadrant_inputs: int, device: str | torch.device = "cpu"
    ) -> "TrainedCVAE":
        """Read ``cvae_net_q{n}.pth``, and from ``metrics.json`` how the networks were made.

        Args:
            folder, num_quadrant_inputs: where a run has written to, and the n of the file's name.
            device: where to compute.

        Raises:
            FileError: a file is missing, damaged, or of another model.
        """
        weights_path = Path(folder) / FILES["cvae"].format(n=num_quadrant_inputs)
        metrics_path = Path(folder) / FILES["metrics"]
        try:
            weights, text = read_tensors(weights_path), metrics_path.read_bytes()
        except OSError as error:
            raise FileError(f"{error.filename} can't be read ({error.strerror})") from error
        try:
            metrics = json.loads(text)
            options = {key: metrics["arguments"][key] for key in ("activation", "generation_input")}
            hidden_1, num_pixels = weights["baseline_net.fc1.weight"].shape
            z_dim, hidden_2 = weights["prior_net.fc31.weight"].shape
            options["residual_blocks"] = int(metrics["arguments"].get("residual_blocks", 0))
            cvae = CVAE(z_dim, hidden_1, hidden_2, num_pixels=num_pixels, **options)
            cvae.load_state_dict(weights)
            return cls(cvae.to(device), num_quadrant_inputs, metrics.get("image_shape"))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise FileError(f"{weights_path} and {metrics_path} are not of one CVAE") from error

    def complete(self, images: Tensor | np.ndarray, num_samples: int = 1) -> Tensor:
        """Draw completions, shape (num_samples, N, h, w), in the model's precision.

        Missing pixels, never looked at, become probabilities; the others stay the images' own.

        Args:
            images: shape (N, h, w) or (N, 1, h, w), floats in [0, 1] in the known quadrants.
            num_samples: completions an image, each from a latent sample of its own.

        Raises:
            ValueError: the images are not of that kind or size, or there are no images or samples.
        """
        xs = self._masked(images, num_samples, self.known)["input"]
        with _pyro_lock:
            return torch.where(is_missing(xs), draw_samples(self.cvae, xs, num_samples), xs)

    def negative_cll(self, images: Tensor | np.ndarray, num_particles: int = 100) -> Tensor:
        """Estimate the missing quadrants' negative CLL: nats, shape (N,), float64 on the CPU.

        Args:
            images: whole, shape (N, h, w) or (N, 1, h, w), floats in [0, 1].
            num_particles: latent samples an image, for importance sampling.

        Raises:
            ValueError: the images are not of that kind or size, or there are none, or no particles.
        """
        everywhere = torch.ones_like(self.known)
        dataset = StackDataset(**self._masked(images, num_particles, everywhere))
        with _pyro_lock:
            return estimate_cll(self.cvae, dataset, num_particles=num_particles)

    def _masked(self, images: Tensor | np.ndarray, num_samples: int, checked: Tensor) -> Sample:
        """Split images into ``input`` and ``output`` if all ``checked`` pixels are valid."""
        images, shape = torch.as_tensor(images), tuple(self.known.shape)
        if images.shape[1:] not in (shape, (1, *shape)):
            expected = "images must have shape (N, {}, {})".format(*shape)
            raise ValueError(f"{expected}, not {tuple(images.shape)}")
        n = len(images)
        if min(n, num_samples) < 1:
            raise ValueError(f"images ({n}) and samples of each ({num_samples}) must be at least 1")
        if not images.is_floating_point() or is_missing(images[..., checked]).any():
            raise ValueError("images must be floats in [0, 1]: divide bytes by 255")
        original = images.reshape(-1, 1, *shape).to(next(self.cvae.parameters()))
        return self.mask({"original": original})
