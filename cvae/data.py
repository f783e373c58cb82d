"""Digit images, split into the quadrants that are known and those to be predicted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
)

from cvae.config import DATASETS, VAL_FRACTION, UsageError
from cvae.datasets import Images, load_images, resolve_dataset, split_images

__all__ = ["CVAEMNIST", "MaskImages", "Sample", "ToTensor", "VALIDATION_BATCH_SIZE", "get_data"]
__all__ += ["make_loader", "setting_name", "shard"]

Sample = dict[str, Any]

VALIDATION_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


class CVAEMNIST(Dataset):
    """MNIST, or other images, held in memory and read one sample or a whole batch at a time.

    A sample is a dict with ``original`` and ``digit``, and with whatever the transform adds.
    Before any transform they are uint8 of shape (*batch, h, w) in [0, 255] and int64 of shape
    (*batch,).

    Args:
        root: folder that holds ``MNIST/raw``.
        train: the training images, else the test images, which the tutorial validates with.
        transform: called with a sample, which may have leading batch dimensions.
        download: download the files if they are missing.
        source: images to use in place of MNIST's.

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
    ) -> None:
        if source is None:
            splits = load_images("mnist", root, download=download)
            source = splits["train" if train else "test"]
        self.source = source
        self.transform = transform

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
            item: what indexes a tensor of N values, with the same meaning: an integer makes one
                sample; a slice, a mask, and integers as a list, array or tensor make a batch, a
                sample with their shape as leading dimensions.

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
        columns = {"original": self.source.images, "digit": self.source.digits}
        # index_select copies whole images, which takes a fraction of the time of indexing
        sample = {
            key: values.index_select(0, index).view(rows.shape + values.shape[1:])
            for key, values in columns.items()
        }
        return self.transform(sample) if self.transform else sample


class ToTensor:
    """Turn ``original`` into floats in [0, 1] of shape (*batch, 1, h, w), and ``digit`` into int64.

    The caller's dict stays as it is.
    """

    def __call__(self, sample: Sample) -> Sample:
        """Convert one sample, or a batch.

        Args:
            sample: dict with ``digit`` and ``original``: a PIL image of one channel (mode ``L`` or
                ``1``), or an array or tensor of shape (*batch, h, w), of uint8, which is divided
                by 255, or of floats in [0, 1].

        Returns:
            A new dict with both converted, and whatever else the sample holds.

        Raises:
            TypeError: ``original`` holds neither uint8 nor floats.
            ValueError: it is a PIL image of another mode, has fewer than two dimensions, or holds
                floats that are not in [0, 1].
        """
        image = sample["original"]
        if isinstance(image, Image.Image):
            if image.mode not in ("1", "L"):
                raise ValueError(f"ToTensor needs one channel (mode L or 1), not {image.mode}")
            image = image.convert("L")
        if not isinstance(image, Tensor):
            image = torch.as_tensor(np.array(image, order="C"))
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise TypeError(f"ToTensor needs uint8 or floats in [0, 1], not {image.dtype}")
        if image.ndim < 2:
            raise ValueError(f"ToTensor needs shape (*batch, h, w), not {tuple(image.shape)}")
        if image.is_floating_point() and not ((0 <= image) & (image <= 1)).all():  # nor for NaN
            raise ValueError("ToTensor needs floats in [0, 1]: divide by the greatest possible")
        scale = 255 if image.dtype == torch.uint8 else 1
        image = image.unsqueeze(-3).to(torch.float32) / scale
        digit = torch.as_tensor(sample["digit"], dtype=torch.int64)
        return {**sample, "original": image, "digit": digit}


class MaskImages:
    """Split an image into ``input``, the known quadrants, and ``output``, the missing ones.

    Each is the whole image with the other's pixels set to ``mask_with``: one known quadrant is the
    bottom left one, two are the left half, three are all but the bottom right (Sohn, Lee, Yan
    (2015), section 5.1).  Which pixels are known depends on their position alone, never on their
    values.  The caller's dict stays as it is.

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        mask_with: value of the pixels that are not there.  To the networks, any value outside
            [0, 1] is a missing pixel.

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
    val_fraction: float | None = None,
    subset: int | None = None,
    holdout: int = 0,
    binarize: bool = False,
    mask_with: float = -1,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
) -> tuple[dict[str, CVAEMNIST], dict[str, DataLoader], dict[str, int]]:
    """Prepare data sets and loaders for one number of known quadrants.

    Args:
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        batch_size: images a batch, at least 1, summed over all processes.
        val_batch_size: images a batch of all splits but ``"train"``, at least 1; by default the
            same.
        dataset: one of ``cvae.config.DATASETS``, the path of your own images (see
            :func:`cvae.own_images.load_own_images`), or ``"auto"`` for ``"mnist"`` if it is there
            or can be downloaded, else ``"mnist-5k"``.
        data_dir: folder of the data sets' files, which are downloaded if they are missing.
        val_fraction: fraction of your own images used for validation, in (0, 1); by default 1/6.
            Only where they do not bring their own split.
        subset: use only the first so many images of each split, at least 1; by default all.
        holdout: validate with the last so many training images rather than the test images; at
            least 0.  Not for your own images that bring their own split.
        binarize: turn each pixel black or white, with the threshold at 0.5.
        mask_with: value of the pixels that are not there, outside [0, 1].
        device: where images and digits are held, and so where batches are made.
        rank: number of this process, from 0.  Only the loaders depend on it: that of ``"train"``
            makes an equal number of the images of every batch, the others make a shard.
        world_size: number of processes, at least 1.
        seed: of the order of the training images, where there are several processes.

    Returns:
        Three dicts with the keys ``"train"`` and ``"val"``: data sets, loaders, numbers of images.
        As in the tutorial, the test images validate; they have the key ``"test"`` if others do: a
        holdout, or validation images that the data set brings.

    Raises:
        DataError: the data set is missing, damaged or can't be downloaded, or has images of odd or
            different sizes.
        UsageError: no data set has that name; a validation fraction or a holdout is given for
            images that bring their own split; the holdout leaves nothing to train on; the batch
            size is no multiple of the world size; there are more processes than images of a split.
        ValueError: an argument is out of its range, which the message names.
    """
    val_batch_size = batch_size if val_batch_size is None else val_batch_size
    fraction = VAL_FRACTION if val_fraction is None else val_fraction
    for name, value, is_valid, wanted in (
        ("batch_size", batch_size, batch_size >= 1, "at least 1"),
        ("val_batch_size", val_batch_size, val_batch_size >= 1, "at least 1"),
        ("val_fraction", fraction, 0 < fraction < 1, "above 0 and below 1"),
        ("subset", subset, subset is None or subset >= 1, "at least 1"),
        ("holdout", holdout, holdout >= 0, "at least 0"),
        ("mask_with", mask_with, mask_with < 0 or mask_with > 1, "below 0 or above 1"),  # nor NaN
    ):
        if not is_valid:
            raise ValueError(f"{name} must be {wanted}, not {value}")
    if batch_size % world_size:
        raise UsageError(f"--batch-size {batch_size} can't be divided among {world_size} processes")
    to_tensor, mask = ToTensor(), MaskImages(num_quadrant_inputs, mask_with)

    def transform(sample: Sample) -> Sample:
        return mask(to_tensor(sample))

    datasets, dataloaders = {}, {}
    splits = _choose_splits(dataset, data_dir, val_fraction, holdout)
    for split, (images, rows) in splits.items():
        images = images.select(rows[:subset])
        if (count := len(images)) < world_size:
            raise UsageError(
                f"there are more processes ({world_size}) than {split} images ({count})"
            )
        images = (images.binarized() if binarize else images).to(device)
        data = datasets[split] = CVAEMNIST(data_dir, split == "train", transform, source=images)
        if split != "train":
            mine = shard(data, rank, world_size) if world_size > 1 else data
            dataloaders[split] = make_loader(mine, val_batch_size)
        elif world_size == 1:
            dataloaders[split] = make_loader(data, batch_size, shuffle=True)
        else:  # one order for all processes
            order: Sampler = DistributedSampler(data, world_size, rank, seed=seed)
            dataloaders[split] = make_loader(data, batch_size // world_size, order=order)
    return datasets, dataloaders, {split: len(data) for split, data in datasets.items()}


def _choose_splits(
    dataset: str, data_dir: str | Path, val_fraction: float | None, holdout: int
) -> dict[str, tuple[Images, range]]:
    """Choose what to train on, to validate with and to report: images, and rows of them."""
    dataset = resolve_dataset(dataset, data_dir)
    splits = load_images(dataset, data_dir)
    if dataset not in DATASETS and len(splits) > 1 and (val_fraction is not None or holdout):
        brought = f"{dataset} brings its own split ({', '.join(splits)})"
        raise UsageError(f"{brought}: leave out --val-fraction and --holdout")
    if len(splits) == 1:
        splits = split_images(splits["train"], val_fraction or VAL_FRACTION)
    if "val" not in splits:
        splits["val"] = splits.pop("test")
    chosen = {split: (images, range(len(images))) for split, images in splits.items()}
    if holdout:
        train, rows = chosen["train"]
        if holdout >= len(rows):
            raise UsageError(f"--holdout {holdout} leaves none of {len(rows):,} training images")
        chosen["test"] = chosen["val"]
        chosen |= {"train": (train, rows[:-holdout]), "val": (train, rows[-holdout:])}
    return chosen


def make_loader(
    dataset: Dataset, batch_size: int, shuffle: bool = False, *, order: Sampler | None = None
) -> DataLoader:
    """Iterate over a data set, which makes each batch in one go from a list of indices.

    Args:
        dataset: a :class:`CVAEMNIST`, a ``Subset`` of one, or another that takes lists of indices.
        batch_size: images a batch; the last one may be smaller.
        shuffle: in a new order each epoch, drawn from PyTorch's global random number generator.
        order: of the indices, rather than ``shuffle``.
    """
    if order is None:
        order = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)  # type: ignore
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(dataset, sampler=batches, batch_size=None)  # lists need no collation


def shard(dataset: Dataset, rank: int, world_size: int) -> Subset:
    """Return this process's shard: contiguous, and as large as the others, or by 1 larger."""
    size = len(dataset)  # type: ignore[arg-type]
    return Subset(dataset, range(size * rank // world_size, size * (rank + 1) // world_size))


def setting_name(num_quadrant_inputs: int) -> str:
    """Name a setting as the table's columns do: ``1 quadrant``, ``2 quadrants``."""
    return f"{num_quadrant_inputs} quadrant" + ("s" if num_quadrant_inputs > 1 else "")
