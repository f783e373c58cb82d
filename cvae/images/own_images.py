"""Your own images: an ``.npz`` file, or a folder of PNG files."""

import functools
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cvae.errors import DataError
from cvae.images.labelled import LabelledImages

__all__ = ["load_own_images"]

SPLIT_SEED = 0  # of the split, which is the same whatever the seed of the run
# What numpy raises, besides OSError, when a file is damaged or holds pickled objects.
DAMAGED = (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL has it


def load_own_images(path: str | Path, train: bool, val_fraction: float) -> LabelledImages:
    """Load the training images or the validation images, split by a permutation that is always the same.

    Args:
        path: an ``.npz`` file with an array ``images``, or with only one array, and perhaps ``labels``; or a
            folder of PNG files, in folders by class or not.  Arrays have the shape (N, h, w), or
            (N, h, w, 1, 3 or 4) for grey, RGB or RGBA, and hold uint8 or floats in [0, 1].  Colours turn
            grey; height and width are the same for all images, and even.
        train: load the training images, else the validation images.
        val_fraction: validation fraction: the fraction of the images used for validation, in (0, 1); there
            is at least one image to train on and one to validate.

    Returns:
        Images, with zeros as labels where there are none.

    Raises:
        DataError: there is no such file, or it does not hold that; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} is missing")
    images, labels = _load(path, path.stat().st_mtime_ns)
    count = len(images)
    if count < 2:
        raise DataError(
            f"{path} holds {count} image{'s' * (count != 1)}: training and validation need one each"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_val = min(max(round(count * val_fraction), 1), count - 1)
    rows = (order[num_val:] if train else order[:num_val]).sort().values
    name = f"{path.name} {'training' if train else 'validation'} split"
    return LabelledImages(images[rows], labels[rows], name)


@functools.lru_cache(maxsize=1)
def _load(path: Path, modified: int) -> tuple[Tensor, Tensor]:
    """Load all images and labels; the cache holds until the time of the last change is another."""
    images, labels = _load_folder(path) if path.is_dir() else _load_npz(path)
    height, width = images.shape[1:]
    if height % 2 or width % 2 or not height or not width:
        raise DataError(
            f"{path} holds images of {height} x {width} pixels: "
            "height and width must be even, to be cut in quadrants"
        )
    return images, labels


def _load_npz(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = list(arrays)
            name = "images" if "images" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise DataError(
                    f"{path} holds the arrays {', '.join(names) or 'none'}: name one of them images"
                )
            images = arrays[name]
            labels = arrays["labels"] if "labels" in names else np.zeros(len(images))
            if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
                raise ValueError("no arrays")
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})") from error
    except DAMAGED as error:
        raise DataError(
            f"{path} is damaged, or holds more than plain arrays; nothing of it was run"
        ) from error
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.number):
        raise DataError(f"{path} holds labels of shape {labels.shape}: there must be a number for each image")
    return torch.as_tensor(_grey(path, images)), torch.as_tensor(labels.astype(np.int64))


def _grey(path: Path, images: np.ndarray) -> np.ndarray:
    """Turn arrays of images into uint8 of shape (N, h, w)."""
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim < 3 or images.shape[3:] not in ((), (3,), (4,)):
        raise DataError(
            f"{path} holds images of shape {images.shape}: "
            "must be (N, h, w), or (N, h, w, 1, 3 or 4) for colours"
        )
    if np.issubdtype(images.dtype, np.floating):
        if images.size and not (0 <= images.min() and images.max() <= 1):  # not so for NaN either
            raise DataError(
                f"{path} holds floats that are not in [0, 1]: divide them by the greatest possible"
            )
        scale = 255.0
    elif images.dtype == np.uint8:
        scale = 1.0
    else:
        raise DataError(f"{path} holds {images.dtype}: must be uint8, or floats in [0, 1]")
    if images.ndim == 4:
        images = images[..., :3] @ np.array(LUMA)
    return images if images.dtype == np.uint8 else np.rint(images * scale).astype(np.uint8)


def _load_folder(path: Path) -> tuple[Tensor, Tensor]:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    if not files:
        raise DataError(f"{path} holds no PNG file")
    images = [_load_png(file) for file in files]
    for file, image in zip(files, images):
        if image.shape != images[0].shape:
            raise DataError(
                f"{file} has {image.shape[0]} x {image.shape[1]} pixels and {files[0]} has "
                f"{images[0].shape[0]} x {images[0].shape[1]}: all must have the same size"
            )
    folders = [file.relative_to(path).parts[:-1] for file in files]
    classes = sorted({folder[0] for folder in folders if folder})
    labels = [classes.index(folder[0]) if folder else 0 for folder in folders]
    return torch.as_tensor(np.stack(images)), torch.tensor(labels)


def _load_png(file: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PIL warns of images that unpack to gigabytes
            with Image.open(file, formats=["PNG"]) as image:
                if image.mode.startswith("I"):  # 16 bits, which PIL would cut off rather than scale
                    return np.rint(np.asarray(image) / 257).astype(np.uint8)
                return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        raise DataError(f"{file} can't be read as a PNG file ({' '.join(str(error).split())})") from error
