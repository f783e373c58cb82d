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
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_val = min(max(round(len(images) * val_fraction), 1), len(images) - 1)
    rows = (order[num_val:] if train else order[:num_val]).sort().values
    name = f"{path.name} {'training' if train else 'validation'} split"
    return LabelledImages(images[rows], labels[rows], name)


@functools.lru_cache(maxsize=1)
def _load(path: Path, modified: int) -> tuple[Tensor, Tensor]:
    """Load all images and labels; the cache holds until the time of the last change is another."""
    images, labels = _read_folder(path) if path.is_dir() else _read_npz(path)
    if problem := _problem(images, labels):
        raise DataError(f"{path} holds {problem}")
    return torch.as_tensor(_grey(images)), torch.as_tensor(labels.astype(np.int64))


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = arrays.files
            if "images" not in names and len(names) != 1:
                raise DataError(f"{path} holds the arrays {', '.join(names) or 'none'}: name one of them images")
            images = arrays["images" if "images" in names else names[0]]
            return images, np.asarray(arrays.get("labels", np.zeros(images.shape[:1])))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})") from error
    except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged, or holds more than plain arrays; nothing of it was run") from error


def _read_folder(path: Path) -> tuple[np.ndarray, np.ndarray]:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    if not files:
        raise DataError(f"{path} holds no PNG file")
    images = [_read_png(file) for file in files]
    for file, image in zip(files, images):
        if image.shape != images[0].shape:
            sizes = " and ".join("{} x {}".format(*each.shape) for each in (image, images[0]))
            raise DataError(f"{file} and {files[0]} have {sizes} pixels: all must have the same size")
    classes = ["".join(file.relative_to(path).parent.parts[:1]) for file in files]
    return np.stack(images), np.unique(classes, return_inverse=True)[1]


def _read_png(file: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PIL warns of images that unpack to gigabytes
            with Image.open(file, formats=["PNG"]) as image:
                if image.mode.startswith("I"):  # 16 bits, which PIL would cut off rather than scale
                    return np.rint(np.asarray(image) / 257).astype(np.uint8)
                return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        raise DataError(f"{file} can't be read as a PNG file ({' '.join(str(error).split())})") from error


def _problem(images: np.ndarray, labels: np.ndarray) -> str:
    """Say in what way arrays are not images and labels, if any."""
    if images.ndim < 3 or images.shape[3:] not in ((), (1,), (3,), (4,)):
        return f"images of shape {images.shape}: must be (N, h, w), or (N, h, w, 1, 3 or 4) for colours"
    count, height, width = images.shape[:3]
    if count < 2:
        return f"too few images ({count}): training and validation need one each"
    if height % 2 or width % 2 or not height or not width:
        return f"images of {height} x {width} pixels: height and width must be even"
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        return f"{images.dtype}: must be uint8, or floats in [0, 1]"
    if images.dtype != np.uint8 and not (0 <= images.min() and images.max() <= 1):  # not so for NaN either
        return "floats that are not in [0, 1]: divide them by the greatest possible"
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.number):
        return f"labels of shape {labels.shape}: there must be a number for each image"
    return ""


def _grey(images: np.ndarray) -> np.ndarray:
    """Turn floats and colours into uint8 of shape (N, h, w)."""
    scale = 1.0 if images.dtype == np.uint8 else 255.0
    if images.ndim == 4:
        images = images[..., 0] if images.shape[-1] == 1 else images[..., :3] @ np.array(LUMA)
    return images if images.dtype == np.uint8 else np.rint(images * scale).astype(np.uint8)
