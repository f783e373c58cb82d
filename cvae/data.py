"""Digit images divided into the quadrants that are known and those to be predicted."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose

from cvae.errors import UsageError
from cvae.images.catalogue import VAL_FRACTION
from cvae.images.labelled import LabelledImages
from cvae.images.loader import make_loader
from cvae.images.sources import load_images, resolve_dataset

__all__ = ["CVAEMNIST", "MaskImages", "ToTensor", "VALIDATION_BATCH_SIZE", "get_data", "setting_name"]

Sample = dict[str, Any]

VALIDATION_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


class CVAEMNIST(Dataset):
    """MNIST, or other images, held in memory and read one sample or a whole batch at a time.

    A sample is a dict with ``original`` and ``digit``, and with whatever the transform adds.  Before any
    transform they are uint8 of shape (*batch, h, w) in [0, 255] and int64 of shape (*batch,).

    Args:
        root: folder that holds ``MNIST/raw``.
        train: the training images, else the test images, which the tutorial validates with.
        transform: called with a sample, which may have leading batch dimensions.
        download: download the files if they are missing.
        source: images to take in place of MNIST's.

    Attributes:
        baseline_predictions: shape (N, h, w), once they are cached; the samples then hold them as ``y_hat``.

    Raises:
        DataError: the files are missing, damaged or can't be downloaded.
    """

    def __init__(
        self,
        root: str | Path,
        train: bool = True,
        transform: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        *,
        source: LabelledImages | None = None,
    ) -> None:
        self.original = load_images("mnist", root, train, download) if source is None else source
        self.transform = transform
        self.baseline_predictions: Tensor | None = None

    @property
    def name(self) -> str:
        """What tables and figures call these images."""
        return self.original.name

    @property
    def num_pixels(self) -> int:
        """Height times width of an image."""
        return self.original.images[0].numel()

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, item: int | slice | Sequence[int] | Tensor) -> Sample:
        """Make one sample, or from several indices a batch: one sample with a leading batch dimension."""
        columns = {"original": self.original.images, "digit": self.original.digits}
        if self.baseline_predictions is not None:
            columns["y_hat"] = self.baseline_predictions
        if isinstance(item, (Sequence, Tensor)):
            index = torch.as_tensor(item, device=self.original.images.device)
            # index_select copies whole images, which takes a fraction of the time of indexing
            sample = {key: values.index_select(0, index) for key, values in columns.items()}
        else:
            sample = {key: values[item] for key, values in columns.items()}
        return self.transform(sample) if self.transform else sample

    def cache_baseline_predictions(self, predict: Callable[[Tensor], Tensor]) -> None:
        """Compute once what the trained baseline, which no longer changes, predicts for every image.

        Args:
            predict: makes pixel probabilities from ``input``, in the same shape.
        """
        self.baseline_predictions = None
        batches = torch.arange(len(self)).split(VALIDATION_BATCH_SIZE)
        self.baseline_predictions = torch.cat([predict(self[indices]["input"]) for indices in batches])


class ToTensor:
    """Turn ``original`` into floats in [0, 1] of shape (*batch, 1, h, w), and ``digit`` into int64.

    The caller's dict stays as it is.
    """

    def __call__(self, sample: Sample) -> Sample:
        """Convert one sample, or a batch.

        Args:
            sample: dict with ``digit`` and ``original``: a PIL image of one channel (mode ``L`` or ``1``), or an
                array or tensor of shape (*batch, h, w), of uint8, which is divided by 255, or of floats in [0, 1].

        Returns:
            A new dict with both converted, and whatever else the sample holds.

        Raises:
            TypeError: ``original`` holds neither uint8 nor floats.
            ValueError: it is a PIL image of another mode, has fewer than two dimensions, or holds floats that are
                not in [0, 1].
        """
        image = sample["original"]
        if isinstance(image, Image.Image):
            if image.mode not in ("1", "L"):
                raise ValueError(f"ToTensor needs an image of one channel (mode L or 1), not {image.mode}")
            image = image.convert("L")
        if not isinstance(image, Tensor):
            image = torch.as_tensor(np.array(image, order="C"))
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise TypeError(f"ToTensor needs uint8 or floats in [0, 1], not {image.dtype}")
        if image.ndim < 2:
            raise ValueError(f"ToTensor needs images of shape (*batch, h, w), not {tuple(image.shape)}")
        if image.is_floating_point() and not ((0 <= image) & (image <= 1)).all():  # not so for NaN either
            raise ValueError("ToTensor needs floats in [0, 1]: divide them by the greatest possible")
        scale = 255 if image.dtype == torch.uint8 else 1
        image = image.unsqueeze(-3).to(torch.float32) / scale
        return {**sample, "original": image, "digit": torch.as_tensor(sample["digit"], dtype=torch.int64)}


class MaskImages:
    r"""Divide an image into ``input``, the known quadrants, and ``output``, the missing ones.

    Each is the whole image with the other's pixels set to ``mask_with``: one known quadrant is the bottom
    left one, two are the left half, three are all but the bottom right (Sohn, Lee, Yan (2015), section 5.1).
    The division follows from the place of a pixel alone, never from its value.  The caller's dict stays as
    it is.

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        mask_with: value of the pixels that are not there.  The networks take any value outside [0, 1] for
            a missing pixel, and no other.

    Raises:
        ValueError: ``num_quadrant_inputs`` is not 1, 2 or 3.
    """

    def __init__(self, num_quadrant_inputs: int, mask_with: float = -1) -> None:
        if num_quadrant_inputs not in (1, 2, 3):
            raise ValueError(f"number of quadrants as inputs must be 1, 2 or 3, not {num_quadrant_inputs}")
        self.num_quadrant_inputs = num_quadrant_inputs
        self.mask_with = float(mask_with)

    def __call__(self, sample: Sample) -> Sample:
        """Add ``input`` and ``output``, shape (*batch, h, w), to a sample whose ``original`` is a float
        tensor of shape (*batch, 1, h, w) or (h, w)."""
        image = sample["original"]
        if not image.is_floating_point():
            raise TypeError(f"MaskImages needs floats in [0, 1], not {image.dtype}: put ToTensor() before it")
        if image.ndim > 2:
            image = image.squeeze(-3)  # (*batch, 1, h, w) -> (*batch, h, w)
        height, width = image.shape[-2:]
        bottom = torch.arange(height, device=image.device)[:, None] >= height // 2
        left = torch.arange(width, device=image.device) < width // 2
        known = {1: bottom & left, 2: left, 3: left | ~bottom}[self.num_quadrant_inputs]  # broadcast to (h, w)
        return {
            **sample,
            "input": torch.where(known, image, self.mask_with),
            "output": torch.where(known, self.mask_with, image),
        }


def get_data(
    num_quadrant_inputs: int,
    batch_size: int,
    *,
    val_batch_size: int | None = None,
    dataset: str = "auto",
    data_dir: str | Path = "data",
    val_fraction: float = VAL_FRACTION,
    subset: int | None = None,
    holdout: int = 0,
    binarize: bool = False,
    mask_with: float = -1,
    device: str | torch.device = "cpu",
) -> tuple[dict[str, CVAEMNIST], dict[str, DataLoader], dict[str, int]]:
    """Prepare data sets and loaders for one number of known quadrants.

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        batch_size: images a batch, at least 1.
        val_batch_size: images a batch of all splits but the training images, at least 1; by default the same.
        dataset: one of ``cvae.images.catalogue.DATASETS``, the path of your own images (see
            :func:`cvae.images.own_images.load_own_images`), or ``"auto"`` for ``"mnist"`` if it is there or can
            be downloaded, else ``"mnist-5k"``.
        data_dir: folder of the data sets' files, which are downloaded if they are missing.
        val_fraction: validation fraction of your own images, in (0, 1).
        subset: use only the first so many images of each split, at least 1; by default all.
        holdout: use the last so many training images to validate, rather than the test images; at least 0.
        binarize: turn each pixel black or white, with the threshold at 0.5.
        mask_with: value of the pixels that are not there, outside [0, 1].
        device: where images and digits are held, and so where batches are made.

    Returns:
        Three dicts with the keys ``"train"`` and ``"val"``: data sets, loaders, numbers of images.  As in
        the tutorial, the test images validate; with a holdout they have the key ``"test"``.

    Raises:
        DataError: the data set is missing, damaged or can't be downloaded, or has images of odd or different
            sizes.
        UsageError: the holdout leaves nothing to train on.
        ValueError: an argument is out of its range, which the message names, or no data set has that name.
    """
    for name, value, is_valid, wanted in (
        ("batch_size", batch_size, batch_size >= 1, "at least 1"),
        ("val_batch_size", val_batch_size, val_batch_size is None or val_batch_size >= 1, "at least 1"),
        ("val_fraction", val_fraction, 0 < val_fraction < 1, "above 0 and below 1"),
        ("subset", subset, subset is None or subset >= 1, "at least 1"),
        ("holdout", holdout, holdout >= 0, "at least 0"),
        ("mask_with", mask_with, mask_with < 0 or mask_with > 1, "below 0 or above 1"),  # which NaN is not
    ):
        if not is_valid:
            raise ValueError(f"{name} must be {wanted}, not {value}")
    transform = Compose([ToTensor(), MaskImages(num_quadrant_inputs, mask_with)])
    dataset = resolve_dataset(dataset, data_dir)
    training, others = (load_images(dataset, data_dir, train, True, val_fraction) for train in (True, False))
    if holdout >= len(training):
        raise UsageError(f"--holdout {holdout} leaves no image to train on: it must be less than all of them")
    splits = {"train": (training, slice(None, -holdout or None)), "val": (others, slice(None))}
    if holdout:
        splits |= {"val": (training, slice(-holdout, None)), "test": (others, slice(None))}
    datasets = {}
    for split, (images, rows) in splits.items():
        images = images.select(range(len(images))[rows][:subset])
        source = (images.binarized() if binarize else images).to(device)
        datasets[split] = CVAEMNIST(data_dir, split == "train", transform, source=source)
    dataloaders = {split: make_loader(data, val_batch_size or batch_size) for split, data in datasets.items()}
    dataloaders["train"] = make_loader(datasets["train"], batch_size, shuffle=True)
    return datasets, dataloaders, {split: len(data) for split, data in datasets.items()}


def setting_name(num_quadrant_inputs: int) -> str:
    """Name a setting as the table's columns do: ``1 quadrant``, ``2 quadrants``."""
    return f"{num_quadrant_inputs} quadrant" + ("s" if num_quadrant_inputs > 1 else "")
