"""Digit images, split into the quadrants that are known and those to be predicted."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler, Subset

from cvae import distributed
from cvae.baseline import is_missing
from cvae.datasets import DATASETS, Images, load_images, resolve_dataset, split_images
from cvae.files import UsageError
from cvae.random_numbers import own_random_numbers

__all__ = ["CVAEMNIST", "MaskImages", "Sample", "ToTensor", "get_data", "make_loader"]
__all__ += ["shard", "shift_images"]

Sample = dict[str, Any]

VAL_FRACTION = 1 / 6  # of your own images


class CVAEMNIST(Dataset):
    """MNIST, or other images, held in memory and read one sample or a whole batch at a time.

    Before the transform, a sample is a dict with ``original``, uint8 of shape (*batch, h, w) in
    [0, 255], and ``digit``, int64 of shape (*batch,).

    Args:
        root: folder that holds ``MNIST/raw``.
        train: the training images, else the test images, which the tutorial validates with.
        transform: called with a sample, which may have leading batch dimensions.
        download: download the files if they are missing.
        source: images to use in place of MNIST's.
        fixed: transform all images once, rather than at each access, so that what is random about
            the transform, such as a mask, is the same in every pass and run.

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
        source: Images | None = None,
        fixed: bool = False,
    ) -> None:
        if source is None:
            splits = load_images("mnist", root, download=download)
            source = splits["train" if train else "test"]
        self.source, self.transform = source, None if fixed else transform
        self.transformed: Sample | None = None
        if fixed and transform:
            with own_random_numbers(seed=0):
                self.transformed = transform(self[:])

    @property
    def name(self) -> str:
        """What tables and figures call these images."""
        return self.source.name

    @property
    def num_pixels(self) -> int:
        """Height times width of an image."""
        return self.source.images[0].numel()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: Any) -> Sample:
        """Make one sample or a batch.

        Args:
            item: what indexes a tensor of N values: an integer makes one sample; a slice, a mask,
                and integers as a list, array or tensor make a batch, with their shape in front.

        Raises:
            IndexError: an index is out of range.
        """
        if isinstance(item, Tensor):
            item = item.cpu()  # where an index out of range is no failure of the device
        elif isinstance(item, np.ndarray):
            item = torch.as_tensor(item.astype(np.int64) if item.dtype.kind in "iu" else item)
        elif isinstance(item, (list, range)):
            item = torch.as_tensor(item) if len(item) else slice(0)  # also of single tensors
        rows = torch.arange(len(self))[item]
        index = rows.flatten().to(self.source.images.device)
        sample = dict(
            self.transformed or {"original": self.source.images, "digit": self.source.digits}
        )
        for key, values in sample.items():  # index_select copies whole images, faster than indexing
            sample[key] = values.index_select(0, index).view(rows.shape + values.shape[1:])
        return self.transform(sample) if self.transform else sample


class ToTensor:
    """Turn ``original`` into floats of shape (*batch, 1, h, w) and ``digit`` into int64."""

    def __call__(self, sample: Sample) -> Sample:
        """Convert one sample, or a batch.

        Args:
            sample: dict with ``digit`` and ``original``: a PIL image of mode ``L`` or ``1``, or an
                array or tensor of shape (*batch, h, w), of uint8 or of floats in [0, 1].

        Returns:
            A new dict with both converted, and whatever else the sample holds.

        Raises:
            TypeError: ``original`` holds neither uint8 nor floats.
            ValueError: it has another mode, fewer than two dimensions, or floats not in [0, 1].
        """
        image = sample["original"]
        if isinstance(image, Image.Image):
            if image.mode not in ("1", "L"):
                raise ValueError(f"ToTensor needs one channel (mode L or 1), not {image.mode}")
            image = image.convert("L")
        if not isinstance(image, Tensor):
            image = torch.as_tensor(np.array(image, order="C"))
        is_bytes = image.dtype == torch.uint8
        if not is_bytes and not image.is_floating_point():
            raise TypeError(f"ToTensor needs uint8 or floats in [0, 1], not {image.dtype}")
        if image.ndim < 2:
            raise ValueError(f"ToTensor needs shape (*batch, h, w), not {tuple(image.shape)}")
        if not is_bytes and not ((0 <= image) & (image <= 1)).all():  # nor for NaN
            raise ValueError("ToTensor needs floats in [0, 1]: divide by the greatest possible")
        image = image.unsqueeze(-3).to(torch.float32) / (255 if is_bytes else 1)
        digit = torch.as_tensor(sample["digit"], dtype=torch.int64)
        return {**sample, "original": image, "digit": digit}


class MaskImages:
    """Split an image into ``input``, the known quadrants, and ``output``, the missing ones.

    Each is the image with the other's pixels set to ``mask_with``.  One known quadrant is the
    bottom left, two are the left half, three are all but the bottom right (Sohn, Lee, Yan (2015),
    section 5.1).

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        mask_with: value of missing pixels, which for the networks is outside [0, 1].

    Raises:
        ValueError: ``num_quadrant_inputs`` is not 1, 2 or 3.
    """

    def __init__(self, num_quadrant_inputs: int, mask_with: float = -1) -> None:
        if num_quadrant_inputs not in (1, 2, 3):
            raise ValueError(f"number of quadrants must be 1, 2 or 3, not {num_quadrant_inputs}")
        self.num_quadrant_inputs = num_quadrant_inputs
        self.mask_with = float(mask_with)

    def __call__(self, sample: Sample) -> Sample:
        """Add ``input`` and ``output``.

        Args:
            sample: dict with ``original``: floats of shape (*batch, 1, h, w) or (h, w).

        Returns:
            A new dict with both added, of shape (*batch, h, w).

        Raises:
            TypeError: ``original`` does not hold floats.
        """
        image = sample["original"]
        if not image.is_floating_point():
            raise TypeError(f"MaskImages needs floats, not {image.dtype}: put ToTensor() before it")
        if image.ndim > 2:
            image = image.squeeze(-3)  # (*batch, 1, h, w) -> (*batch, h, w)
        height, width = image.shape[-2:]
        bottom = torch.arange(height, device=image.device)[:, None] >= height // 2
        left = torch.arange(width, device=image.device) < width // 2
        known = {1: bottom & left, 2: left, 3: left | ~bottom}[self.num_quadrant_inputs]
        sample = {**sample, "input": torch.where(known, image, self.mask_with)}
        return {**sample, "output": torch.where(known, self.mask_with, image)}


def shift_images(xs: Tensor, ys: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Shift each image of a batch at random; zeros come in at the border.

    Args:
        xs, ys: the known and the missing pixels, as from :class:`MaskImages`, shape (batch, h, w).
        pixels: the most by which an image is shifted, up or down, and left or right.

    Returns:
        The known and the missing pixels of the shifted images, at the same places as before.
    """
    missing, shape = is_missing(xs), xs.shape[1:]
    padded = F.pad(torch.where(missing, ys, xs), [pixels] * 4)
    windows = padded.unfold(1, shape[0], 1).unfold(2, shape[1], 1)  # (batch, down, across, h, w)
    down, across = torch.randint(2 * pixels + 1, (2, len(xs)), device=xs.device)
    images = windows[torch.arange(len(xs), device=xs.device), down, across]
    return torch.where(missing, xs, images), torch.where(missing, images, ys)


def get_data(
    num_quadrant_inputs: int | None,
    batch_size: int,
    *,
    mask: Callable[[Sample], Sample] | None = None,
    val_batch_size: int | None = None,
    dataset: str = "auto",
    data_dir: str | Path = "data",
    val_fraction: float | None = None,
    subset: int | None = None,
    holdout: int = 0,
    binarize: bool = False,
    mask_with: float = -1,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> tuple[dict[str, CVAEMNIST], dict[str, DataLoader], dict[str, int]]:
    """Prepare data sets and loaders for one number of known quadrants.

    Under ``torchrun`` each process calls it, and gets the same data sets.  Its loader of
    ``"train"`` makes an equal number of the images of every batch, the others make a shard.

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3; None with a ``mask``.
        batch_size: images a batch, at least 1, summed over all processes.
        mask: in place of :class:`MaskImages`; called with one sample or a batch, it may mask each
            image differently.  Training draws masks anew at each access; the other images keep
            theirs in every pass, run and process, on one kind of device.
        val_batch_size: images a batch of the other splits, at least 1; by default the same.
        dataset: ``"auto"``, a name or a path, as in :func:`cvae.datasets.resolve_dataset`.
        data_dir: folder of the data sets' files, which are downloaded if they are missing.
        val_fraction: fraction of your own images used for validation, in (0, 1); by default 1/6.
        subset: use only the first so many images of each split, at least 1; by default all.
        holdout: validate with the last so many training images, at least 0, not the test images.
        binarize: turn each pixel black or white, with the threshold at 0.5.
        mask_with: value of the pixels that are not there, outside [0, 1].
        device: where images and digits are held, and so where batches are made.
        seed: of the order of the training images, where there are several processes.

    Returns:
        Three dicts with the keys ``"train"`` and ``"val"``: data sets, loaders, numbers of images.
        As in the tutorial, the test images validate; they have the key ``"test"`` if others do.

    Raises:
        DataError: the data set is missing or damaged, or has images of odd or different sizes.
        UsageError: no data set has that name; images that bring a split get a fraction, or own ones
            a holdout; the holdout leaves nothing to train on; the batch size is no multiple of the
            world size; there are more processes than images of a split.
        ValueError: an argument is out of its range, which the message names.
    """
    counts = [("batch_size", batch_size, 1), ("val_batch_size", val_batch_size, 1)]
    for name, value, least in (*counts, ("subset", subset, 1), ("holdout", holdout, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be above 0 and below 1, not {val_fraction}")
    if not (mask_with < 0 or mask_with > 1):  # nor NaN
        raise ValueError(f"mask_with must be below 0 or above 1, not {mask_with}")
    if batch_size % (processes := distributed.world_size()):
        raise UsageError(f"--batch-size {batch_size} can't be divided among {processes} processes")
    if (num_quadrant_inputs is None) == (mask is None) or (mask and mask_with != -1):
        raise ValueError("give num_quadrant_inputs (1, 2 or 3), or a mask with marks of its own")
    own_mask, mask = mask is not None, mask or MaskImages(num_quadrant_inputs or 0, mask_with)
    transform = partial(_to_masked_tensor, mask)

    datasets = {}
    dataset = resolve_dataset(dataset, data_dir)
    for split, images in _choose_images(dataset, data_dir, val_fraction, holdout, subset).items():
        images = images.binarized() if binarize else images
        images = replace(images, images=images.images.to(device), digits=images.digits.to(device))
        fixed = own_mask and split != "train"
        datasets[split] = CVAEMNIST("", transform=transform, source=images, fixed=fixed)
        if fixed:
            _check_masked(datasets[split][:])
    dataloaders = _make_loaders(datasets, batch_size, val_batch_size or batch_size, seed)
    return datasets, dataloaders, {split: len(data) for split, data in datasets.items()}


def _choose_images(
    dataset: str, data_dir: str | Path, val_fraction: float | None, holdout: int, subset: int | None
) -> dict[str, Images]:
    """Load a data set and choose the images of each split, ``"train"`` first."""
    splits = load_images(dataset, data_dir)
    if len(splits) == 1:
        splits = split_images(splits["train"], val_fraction or VAL_FRACTION)
    elif val_fraction is not None or (holdout and dataset not in DATASETS):
        brought = f"{dataset} brings its own split ({', '.join(splits)})"
        flags = "--val-fraction" if dataset in DATASETS else "--val-fraction and --holdout"
        raise UsageError(f"{brought}: leave out {flags}")
    if "val" not in splits:
        splits["val"] = splits.pop("test")
    rows = {split: range(len(images)) for split, images in splits.items()}
    if holdout:
        available = rows["train"]
        if holdout >= len(available):
            left = f"none of {len(available):,} training images"
            raise UsageError(f"--holdout {holdout} leaves {left}")
        splits |= {"val": splits["train"], "test": splits["val"]}
        rows |= {"train": available[:-holdout], "val": available[-holdout:], "test": rows["val"]}
    return {split: images.select(rows[split][:subset]) for split, images in splits.items()}


def _make_loaders(
    datasets: dict[str, CVAEMNIST], batch_size: int, val_batch_size: int, seed: int
) -> dict[str, DataLoader]:
    """Make the loaders of this process."""
    rank, world_size, dataloaders = distributed.rank(), distributed.world_size(), {}
    for split, data in datasets.items():
        if len(data) < world_size:
            raise UsageError(f"more processes ({world_size}) than {split} images ({len(data)})")
        if split != "train":
            mine = shard(data, rank, world_size) if world_size > 1 else data
            dataloaders[split] = make_loader(mine, val_batch_size)
        elif world_size == 1:
            dataloaders[split] = make_loader(data, batch_size, shuffle=True)
        else:  # one order for all processes
            order: Sampler = DistributedSampler(data, world_size, rank, seed=seed)
            dataloaders[split] = make_loader(data, batch_size // world_size, order=order)
    return dataloaders


def _check_masked(sample: Sample) -> None:
    """Refuse what a mask of one's own has made, if no pixel is missing, or pixels are no pixels."""
    for key in ("input", "output"):
        marks = sample[key][is_missing(sample[key])].nan_to_num(math.inf).unique()
        if len(marks) > 1 or (key == "input" and not len(marks)):
            marked = f"one other value where they are missing, not {len(marks)}"
            raise UsageError(f"the mask's {key} must have pixels in [0, 1], and {marked}")


def _to_masked_tensor(mask: Callable[[Sample], Sample], sample: Sample) -> Sample:
    return mask(ToTensor()(sample))


def make_loader(
    dataset: Dataset, batch_size: int, shuffle: bool = False, *, order: Sampler | None = None
) -> DataLoader:
    """Make a loader that asks for a whole batch at once.

    Args:
        dataset: a :class:`CVAEMNIST`, a ``Subset`` of one, or another that takes lists of indices.
        batch_size: images a batch; the last one may be smaller.
        shuffle: in a new order each epoch, drawn from PyTorch's global random number generator.
        order: of the indices, rather than ``shuffle``.
    """
    batches = DataLoader(dataset, batch_size, shuffle, order).batch_sampler
    return DataLoader(dataset, sampler=batches, batch_size=None)  # lists need no collation


def shard(dataset: Dataset, rank: int, world_size: int) -> Subset:
    """Return this process's shard: contiguous, and as large as the others, or by 1 larger."""
    size = len(dataset)  # type: ignore[arg-type]
    return Subset(dataset, range(size * rank // world_size, size * (rank + 1) // world_size))
