"""A trained model, taken from an output folder to be used on images."""

import contextlib
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor
from torch.utils.data import StackDataset

from cvae.baseline import BaselineNet, is_missing
from cvae.data import MaskImages, Sample
from cvae.estimators import estimate_cll
from cvae.evaluate import draw_samples
from cvae.files import FILES, FileError, ModelError, read_tensors
from cvae.model import CVAE
from cvae.traces import get_trace, value_sites

__all__ = ["TrainedCVAE"]

Array = Tensor | np.ndarray

_pyro_lock = threading.Lock()  # Pyro keeps in global variables what it is doing


class TrainedCVAE:
    """A CVAE and the quadrants that it was trained to start from.

    Args:
        cvae, num_quadrant_inputs: the model, and its number of known quadrants: 1, 2 or 3; None if
            it was trained with other masks, so that each call says what is ``known``.
        image_shape: height and width of its images; by default they are square.
        mask_with: value that marked missing pixels in training.

    Raises:
        ValueError: ``num_quadrant_inputs`` is not 1, 2 or 3, or the model has other images.
    """

    def __init__(
        self,
        cvae: CVAE,
        num_quadrant_inputs: int | None,
        image_shape: Sequence[int] | None = None,
        mask_with: float = -1,
    ) -> None:
        num_pixels = cvae.baseline_net.num_pixels
        shape = tuple(image_shape or [math.isqrt(num_pixels)] * 2)
        if len(shape) != 2 or math.prod(shape) != num_pixels:
            raise ValueError(f"a model of {num_pixels} pixels can't have images of shape {shape}")
        self.cvae, self.shape, self.mask_with = cvae.eval(), shape, float(mask_with)
        if num_quadrant_inputs is not None:
            self.mask = MaskImages(num_quadrant_inputs, mask_with)
            self.known = ~is_missing(self.mask({"original": torch.zeros(shape)})["input"])  # (h, w)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        num_quadrant_inputs: int,
        device: str | torch.device = "cpu",
        model: type[CVAE] = CVAE,
    ) -> "TrainedCVAE":
        """Read ``cvae_net_q{n}.pth``, and from ``metrics.json`` how the networks were made.

        Args:
            folder, num_quadrant_inputs: where a run has written to, and the n of the file's name.
            device: where to compute.
            model: the class that was trained, which is never imported because a file says so.

        Raises:
            FileError: a file is missing, damaged, or of another model.
        """
        folder = Path(folder).expanduser()
        weights_path = folder / FILES["cvae"].format(n=num_quadrant_inputs)
        metrics_path = folder / FILES["metrics"]
        try:
            weights, text = read_tensors(weights_path), metrics_path.read_bytes()
        except OSError as error:
            raise FileError(f"{error.filename} can't be read ({error.strerror})") from error
        try:
            metrics = json.loads(text)
            arguments, names = metrics["arguments"], ("activation", "generation_input")
            _check_class(folder, arguments.get("model", "cvae.model:CVAE"), model)
            options: dict[str, Any] = {name: arguments[name] for name in names}
            options["residual_blocks"] = int(arguments.get("residual_blocks", 0))
            hidden_1, num_pixels = weights["baseline_net.fc1.weight"].shape
            hidden_2 = len(weights["baseline_net.fc2.weight"])
            options["pre_trained_baseline_net"] = BaselineNet(hidden_1, hidden_2, num_pixels)
            cvae = model(num_pixels=num_pixels, **options)
            if any(cvae.state_dict()[key].shape != value.shape for key, value in weights.items()):
                cvae = model(num_pixels=num_pixels, **_sizes(weights), **options)
            cvae.load_state_dict(weights)
            return cls(cvae.to(device), num_quadrant_inputs, metrics.get("image_shape"))
        except FileError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise FileError(f"{weights_path} and {metrics_path} are not of one CVAE") from error

    def complete(
        self,
        images: Array,
        num_samples: int = 1,
        known: Array | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Draw completions, shape (num_samples, N, h, w), in the model's precision.

        Missing pixels, never looked at, become means of p(y|z); the others stay the images' own.

        Args:
            images: shape (N, h, w) or (N, 1, h, w), floats in [0, 1] where they are known.
            num_samples: completions an image, each from a latent sample of its own.
            known: which pixels are given, bool of shape (h, w) or (N, h, w); by default those of
                the quadrants that the model was trained with.
            seed: of what is drawn, so that PyTorch's own random state stays as it was.

        Raises:
            ValueError: the images are not of that kind or size, or there are no images or samples.
        """
        xs, _, known = self._check(images, num_samples, known, whole=False)
        with _drawing(seed):
            completions = draw_samples(self.cvae, xs, num_samples)
        return torch.where(known, xs, completions, out=completions)

    def negative_cll(
        self,
        images: Array,
        num_particles: int = 100,
        known: Array | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Estimate the missing pixels' negative CLL: nats, shape (N,), float64 on the CPU.

        Args:
            images: whole, shape (N, h, w) or (N, 1, h, w), floats in [0, 1].
            num_particles: latent samples an image, for importance sampling.
            known, seed: as for :meth:`complete`.

        Raises:
            ValueError: the images are not of that kind or size, or there are none, or no particles.
        """
        xs, ys, _ = self._check(images, num_particles, known)
        parts: Sample = {"input": xs, "output": ys}
        with _drawing(seed):
            return estimate_cll(self.cvae, StackDataset(**parts), num_particles=num_particles)

    @torch.no_grad()
    def encode(
        self,
        images: Array,
        num_samples: int | None = None,
        known: Array | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Return means of q(z|x,y), shape (N, z_dim), or samples, (num_samples, N, z_dim).

        Args:
            images: whole, shape (N, h, w) or (N, 1, h, w), floats in [0, 1].
            num_samples: latent samples an image; by default the mean.
            known, seed: as for :meth:`complete`.

        Raises:
            ModelError: the guide has no site ``"z"``, or for the mean, other latent sites too.
            NotImplementedError: PyTorch knows no mean of that distribution, only samples.
            ValueError: the images are not of that kind or size, or there are no images or samples.
        """
        xs, ys, _ = self._check(images, 1 if num_samples is None else num_samples, known)
        with _drawing(seed):
            if num_samples is not None:
                plate = pyro.plate("particles", num_samples, dim=-2)
                return _find_site("z", get_trace(plate(self.cvae.guide), xs, ys))["value"]
            trace = get_trace(self.cvae.guide, xs, ys)
            z, sites = _find_site("z", trace)["fn"], value_sites(trace).items()
            latents = [name for name, site in sites if not site["is_observed"]]
            if len(latents) > 1:
                names = " and ".join(map(repr, latents))
                raise ModelError(f"{names} depend on each other, and have no mean: draw samples")
            return z.mean

    @torch.no_grad()
    def decode(self, images: Array, z: Array, known: Array | None = None) -> Tensor:
        """Complete images with given latent variables, shape (*samples, N, h, w).

        Args:
            images, known: as for :meth:`complete`.
            z: shape (*samples, N, z_dim), as from :meth:`encode`.

        Raises:
            ModelError: the model has no site ``"y"``.
            ValueError: the images or z are not of that kind or size.
        """
        xs, _, known = self._check(images, 1, known, whole=False)
        z = torch.as_tensor(z).to(xs)
        if z.shape[-2:-1] != xs.shape[:1]:
            expected = f"z must have shape (*samples, {len(xs)}, z_dim)"
            raise ValueError(f"{expected}, not {tuple(z.shape)}")
        with _pyro_lock:
            predict = pyro.condition(self.cvae.model, {"z": z})
            ys = _find_site("y", get_trace(predict, xs))["value"]
        return torch.where(known, xs, ys.view(*z.shape[:-2], *xs.shape))

    def _check(
        self, images: Array, num_samples: int, known: Array | None, whole: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return known pixels, missing ones, both (N, h, w), and which are known."""
        images, (height, width) = torch.as_tensor(images), self.shape
        if images.shape[1:] not in ((height, width), (1, height, width)):
            expected = f"images must have shape (N, {height}, {width})"
            raise ValueError(f"{expected}, not {tuple(images.shape)}")
        n = len(images)
        if min(n, num_samples) < 1:
            raise ValueError(f"images ({n}) and samples of each ({num_samples}) must be at least 1")
        if known is None and not hasattr(self, "known"):
            raise ValueError("say which pixels are known: the model was not trained with quadrants")
        known = torch.as_tensor(self.known if known is None else known)
        if known.dtype != torch.bool or known.shape not in (self.shape, (n, *self.shape)):
            expected = (
                f"known must be bool of shape ({height}, {width}) or ({n}, {height}, {width})"
            )
            raise ValueError(f"{expected}, not {known.dtype} of {tuple(known.shape)}")
        if not images.is_floating_point():
            raise ValueError("images must be floats in [0, 1]: divide bytes by 255")
        weights = next(self.cvae.parameters())
        images = images.detach().reshape(-1, height, width).to(weights)
        known = known.to(weights.device)
        if (is_missing(images) & (known | whole)).any():
            raise ValueError("images must be floats in [0, 1]: divide bytes by 255")
        known_pixels = torch.where(known, images, self.mask_with)
        return known_pixels, torch.where(known, self.mask_with, images), known


@contextlib.contextmanager
def _drawing(seed: int | None) -> Iterator[None]:
    """Hold Pyro's lock; with a seed, leave the random state as it was."""
    devices = range(torch.cuda.device_count())
    with _pyro_lock, torch.random.fork_rng(devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _find_site(name: str, trace: Trace) -> dict[str, Any]:
    sites = value_sites(trace)
    if name not in sites:
        raise ModelError(f"there is no site {name!r}, but only {', '.join(map(repr, sites))}")
    return sites[name]


def _check_class(folder: Path, trained: str, model: type[CVAE]) -> None:
    """Refuse a class that has not the name, ``mine.py:Name``, of the one that was trained."""
    there, here = trained.replace(".py:", ":"), f"{model.__module__}:{model.__qualname__}"
    # A file can have become part of a package since, but none is the plain model's.
    plain = f"{CVAE.__module__}:{CVAE.__qualname__}"
    moved = _without_package(there) == _without_package(here) and plain not in (there, here)
    if there != here and not moved:
        advice = f"pass that class: model={trained.rpartition(':')[2]}, or --model"
        raise FileError(f"{folder} holds a model of class {trained}, not {here}: {advice}")


def _without_package(name: str) -> str:
    module, _, class_name = name.rpartition(":")
    return f"{module.rpartition('.')[2]}:{class_name}"


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sizes that are arguments of a CVAE, where its prior network tells them."""
    layers = {"hidden_1": "fc1", "hidden_2": "fc2", "z_dim": "fc31"}
    names = {size: f"prior_net.{layer}.weight" for size, layer in layers.items()}
    return {size: len(weights[name]) for size, name in names.items() if name in weights}
