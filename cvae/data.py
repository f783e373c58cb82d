"""Digit images divided into the quadrants that are known and those to be predicted."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset, default_collate
from torchvision.transforms import Compose, functional

from cvae.distributed import rank, world_size
from cvae.options import UsageError
from cvae.own_images import load_own_images
from cvae.sources import DATASETS, load_digits, resolve_dataset, split_name

__all__ = ["CVAEMNIST", "MaskImages", "ToTensor", "get_data", "make_loader", "make_shared_loader", "part"]

Sample = dict[str, Any]

VAL_FRACTION = 1 / 6
BLACK_AND_WHITE = 128  # the first of 256 greys at or above 0.5


class CVAEMNIST(Dataset):
    """MNIST, or another data set, held in memory as one uint8 tensor, read an image or a whole batch at a time.

    A sample is a dict with ``original`` and ``digit``, and with whatever the transform adds.  Before any
    transform they are uint8 of shape (*batch, h, w) in [0, 255] and int64 of shape (*batch,).

    Args:
        root: folder that holds ``MNIST/raw``, or those of other data sets.
        train: the training split, else the validation split (MNIST's test files).
        transform: called with a sample of any leading batch shape.
        download: fetch the files if they are missing.
        dataset: one of ``cvae.sources.DATASETS``, of which ``"mnist-5k"`` needs no files; or the path of
            images of one's own (see :func:`cvae.own_images.load_own_images`).
        val_fraction: share of one's own images that validate.
        rows: which of its images to keep.
        subset: keep the first so many of these, or all of them if None.
        binarize: turn each pixel black or white, with the threshold at 0.5.
        device: where images and digits live, and so where batches are made.

    Attributes:
        name: what tables and figures call this split.
        guess: None, or what the baseline predicts for the missing pixels, shape (N, missing), which never
            changes once it is trained (see :meth:`keep_guess`); the samples then have ``guess``, which is
            ``input`` with these in place.

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
        dataset: str = "mnist",
        val_fraction: float = VAL_FRACTION,
        rows: slice = slice(None),
        subset: int | None = None,
        binarize: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        if dataset in DATASETS:
            images, digits = load_digits(dataset, root, train, download)
        else:
            images, digits = load_own_images(dataset, train, val_fraction)
        kept = range(len(images))[rows][:subset]
        self.images = images[kept.start : kept.stop].to(device)
        self.digits = digits[kept.start : kept.stop].to(device)
        self.name = _part_name(split_name(dataset, train), kept, len(images))
        if binarize:
            self.images = (self.images >= BLACK_AND_WHITE).to(torch.uint8) * 255
            self.name += ", binarized"
        self.transform = transform
        self.guess: Tensor | None = None
        self._missing: Tensor  # their places, once there is a guess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> Sample:
        return self._transformed({key: values[item] for key, values in self._columns.items()})

    def __getitems__(self, items: Sequence[int]) -> "Batch":
        """Make the samples of a whole batch in one go: what ``DataLoader`` calls."""
        return Batch(self.batch(items))

    def batch(self, items: Sequence[int] | Tensor) -> Sample:
        """Make one sample of many images, with a leading batch dimension."""
        index = torch.as_tensor(items, device=self.images.device)
        # index_select copies whole images, which takes a fraction of the time of indexing
        return self._transformed(
            {key: values.index_select(0, index) for key, values in self._columns.items()}
        )

    def fingerprint(self) -> str:
        """Return the beginning of the SHA-256 of its images."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()[:16]

    def keep_guess(self, predict: Callable[[Tensor], Tensor], batch_size: int = 1000) -> None:
        """Compute ``guess`` for all images, from what ``predict`` makes of ``input``, in the same shape."""
        self.guess = None
        first = self[0]
        self._missing = (first["input"] != first["original"][0]).flatten().nonzero().squeeze(-1)
        guess = torch.empty(len(self), len(self._missing), device=self.images.device)
        for items in torch.arange(len(self)).split(batch_size):
            whole = predict(self.batch(items)["input"]).flatten(-2)
            guess[items[0] : items[-1] + 1] = whole.index_select(-1, self._missing)
        self.guess = guess

    @property
    def _columns(self) -> dict[str, Tensor]:
        columns = {"original": self.images, "digit": self.digits}
        return columns if self.guess is None else {**columns, "guess": self.guess}

    def _transformed(self, sample: Sample) -> Sample:
        if self.transform:
            sample = self.transform(sample)
        if self.guess is not None:
            given = sample["input"]
            sample["guess"] = given.flatten(-2).index_copy(-1, self._missing, sample["guess"]).view_as(given)
        return sample


def _part_name(whole: str, kept: range, images: int) -> str:
    """Name a stretch of a split's images, counted from 1."""
    if len(kept) == images:
        return whole
    if kept.start == 0:
        return f"first {kept.stop:,} of the {whole}"
    return f"images {kept.start + 1:,} to {kept.stop:,} of the {whole}"


class Batch:
    """The samples of a batch for any collate function, and the same already stacked for ours.

    Args:
        stacked: one sample of many images, with a leading batch dimension.
    """

    def __init__(self, stacked: Sample) -> None:
        self.stacked = stacked

    def __len__(self) -> int:
        return len(self.stacked["digit"])

    def __getitem__(self, item: int) -> Sample:
        return {key: values[item] for key, values in self.stacked.items()}

    def __iter__(self) -> Iterator[Sample]:
        return (self[item] for item in range(len(self)))


class ToTensor:
    """Turn ``original`` into floats in [0, 1] of shape (*batch, 1, h, w), and ``digit`` into int64.

    ``original`` may be a PIL image, an array or a tensor of shape (*batch, h, w); uint8 is divided by 255.
    The caller's dict stays as it is.
    """

    def __call__(self, sample: Sample) -> Sample:
        image = sample["original"]
        if isinstance(image, Tensor):
            scale = 255 if image.dtype == torch.uint8 else 1
            image = image.unsqueeze(-3).to(torch.float32) / scale
        else:
            image = functional.to_tensor(image)
        digit = sample["digit"]
        if not isinstance(digit, Tensor):
            digit = torch.as_tensor(np.asarray(digit))
        return {**sample, "original": image, "digit": digit.to(torch.int64)}


class MaskImages:
    r"""Divide an image into ``input``, the known quadrants, and ``output``, the missing ones.

    Each is the whole image with the other's pixels set to ``mask_with``: one known quadrant is the bottom
    left one, two are the left half, three are all but the bottom right (Sohn, Lee, Yan (2015), section 5.1).
    The division follows from the place of a pixel alone, never from its value.  The caller's dict stays as
    it is.

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        mask_with: value of the pixels that are not there.  The networks tell them by this value, so for
            them it must lie outside [0, 1].

    Raises:
        ValueError: ``num_quadrant_inputs`` is not 1, 2 or 3.
    """

    def __init__(self, num_quadrant_inputs: int, mask_with: float = -1) -> None:
        if num_quadrant_inputs not in (1, 2, 3):
            raise ValueError(f"number of quadrants as inputs must be 1, 2 or 3, not {num_quadrant_inputs}")
        self.num = num_quadrant_inputs
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
        known = self._known(height, width, image.device)
        return {
            **sample,
            "input": torch.where(known, image, self.mask_with),
            "output": torch.where(known, self.mask_with, image),
        }

    def _known(self, height: int, width: int, device: torch.device) -> Tensor:
        top, left = height // 2, width // 2
        known = torch.zeros(height, width, dtype=torch.bool, device=device)
        known[top:, :left] = True
        if self.num >= 2:
            known[:top, :left] = True
        if self.num == 3:
            known[:top, left:] = True
        return known


def make_loader(dataset: Dataset, batch_size: int, shuffle: bool = False) -> DataLoader:
    """Iterate over a data set in batches, which a ``CVAEMNIST`` makes itself.

    Args:
        dataset: a ``CVAEMNIST``, a ``Subset`` of one, or another data set of dicts.
        batch_size: images a batch; the last one may be smaller.
        shuffle: in a new order each epoch, drawn from torch's global generator.
    """
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, collate_fn=_stacked)


def part(dataset: CVAEMNIST, number: int, of: int) -> Subset:
    """Return one of so many nearly equal stretches of a data set, numbered from 0."""
    return Subset(dataset, range(len(dataset) * number // of, len(dataset) * (number + 1) // of))


def make_shared_loader(dataset: Dataset, batch_size: int, seed: int) -> DataLoader:
    """Iterate, in a new order each epoch, over this process's share of the images of a ``CVAEMNIST``.

    Args:
        dataset: a ``CVAEMNIST``.
        batch_size: images a batch of all processes together.
        seed: of the order, which is one for all processes.

    Raises:
        UsageError: the processes can't have equal shares of a batch.
    """
    if batch_size % world_size():
        raise UsageError(f"--batch-size {batch_size} can't be divided among {world_size()} processes")
    sampler: DistributedSampler = DistributedSampler(dataset, world_size(), rank(), seed=seed)
    return DataLoader(dataset, batch_size // world_size(), sampler=sampler, collate_fn=_stacked)


def _stacked(batch: Any) -> Sample:
    return batch.stacked if isinstance(batch, Batch) else default_collate(batch)


def get_data(
    num_quadrant_inputs: int,
    batch_size: int,
    *,
    dataset: str = "auto",
    data_dir: str | Path = "data",
    val_fraction: float = VAL_FRACTION,
    subset: int | None = None,
    holdout: int = 0,
    binarize: bool = False,
    device: str | torch.device = "cpu",
) -> tuple[dict[str, CVAEMNIST], dict[str, DataLoader], dict[str, int]]:
    """Prepare data sets and loaders for one number of known quadrants.

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        batch_size: images a batch.
        dataset: one of ``cvae.sources.DATASETS``, the path of images of one's own, or ``"auto"`` for
            ``"mnist"`` or else ``"mnist-5k"``, whichever is at hand.
        data_dir: folder of the files of data sets, which are downloaded if they are missing.
        val_fraction: share of one's own images that validate.
        subset: keep the first so many images of each part.
        holdout: keep the last so many training images apart, to validate.
        binarize: turn each pixel black or white, with the threshold at 0.5.
        device: where the images live.

    Returns:
        Three dicts with the keys ``"train"`` and ``"val"``: data sets, loaders, numbers of images.  As in
        the tutorial, the test images validate; with a holdout they have the key ``"test"``.

    Raises:
        DataError: the data set can't be had.
        UsageError: the holdout leaves nothing to train on.
        ValueError: ``num_quadrant_inputs`` is not 1, 2 or 3, or no data set has that name.
    """
    transform = Compose([ToTensor(), MaskImages(num_quadrant_inputs)])
    dataset = resolve_dataset(dataset, data_dir)
    parts = {"train": (True, slice(None, -holdout or None)), "val": (False, slice(None))}
    if holdout:
        parts |= {"val": (True, slice(-holdout, None)), "test": parts["val"]}
    datasets = {
        mode: CVAEMNIST(
            data_dir,
            train=train,
            transform=transform,
            download=True,
            dataset=dataset,
            val_fraction=val_fraction,
            rows=rows,
            subset=subset,
            binarize=binarize,
            device=device,
        )
        for mode, (train, rows) in parts.items()
    }
    if not len(datasets["train"]):
        raise UsageError(f"--holdout {holdout} leaves no image to train on: it must be less than all of them")
    dataloaders = {
        mode: make_loader(datasets[mode], batch_size, shuffle=mode == "train") for mode in datasets
    }
    return datasets, dataloaders, {mode: len(datasets[mode]) for mode in datasets}
