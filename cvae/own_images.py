"""Your own images: an ``.npz`` file, or a folder of PNG and JPEG files."""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cvae.datasets import DataError, Images

__all__ = ["find_own_images", "load_own_images"]

SPLIT_SEED = 0  # of the split, which is the same whatever the seed of the run
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL has it
SUFFIXES = (".png", ".jpg", ".jpeg")


def find_own_images(path: str | Path) -> list[Path]:
    """List the files of your own images: the ``.npz`` file, or the PNG and JPEG files of a folder.

    Args:
        path: the file or the folder, in which hidden files and folders, whose names start with
            a dot, are left out.

    Returns:
        At least one file, in alphabetical order.

    Raises:
        DataError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} is missing, or neither a file nor a folder")
    files = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    shown = [
        file
        for file in files
        if not any(name.startswith(".") for name in file.relative_to(path).parts)
    ]
    if not shown:
        raise DataError(f"{path} holds no PNG or JPEG file")
    return sorted(shown)


def load_own_images(path: str | Path, val_fraction: float) -> tuple[Images, Images]:
    """Load training images and validation images, split by a permutation that is always the same.

    Args:
        path: an ``.npz`` file with an array ``images``, or with only one array, and perhaps
            ``labels``, which are whole numbers of any type; or a folder of PNG and JPEG files, in
            folders by class or not.  Arrays have the shape (N, h, w), or (N, h, w, 1, 3 or 4) for
            grey, RGB or RGBA, and hold uint8 or floats in [0, 1].  Colours turn grey, over a black
            background where they are transparent; height and width are the same for all images,
            and even.
        val_fraction: fraction of the images used for validation, in (0, 1); there is at least one
            image to train on and one to validate.

    Returns:
        Training images and validation images, with zeros as labels where there are none.

    Raises:
        DataError: there is no such file, or it does not hold that; the message names the file.
    """
    path = Path(path)
    files = find_own_images(path)
    images, labels = _read_folder(path, files) if path.is_dir() else _read_npz(path)
    if problem := _problem(images, labels):
        raise DataError(f"{path} holds {problem}")
    own = Images(
        torch.as_tensor(_grey(images)), torch.as_tensor(labels.astype(np.int64)), str(path)
    )
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_val = min(max(round(len(own) * val_fraction), 1), len(own) - 1)
    train, val = order[num_val:].sort().values, order[:num_val].sort().values
    name = _printable(path.name)
    return (
        Images(own.images[train], own.digits[train], f"{name} training split"),
        Images(own.images[val], own.digits[val], f"{name} validation split"),
    )


def _printable(name: str) -> str:
    """Replace what tables and figures can't show: bytes that are not UTF-8, control characters."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = arrays.files
            if "images" not in names and len(names) != 1:
                raise DataError(
                    f"{path} holds the arrays {', '.join(names) or 'none'}: name one of them images"
                )
            images = arrays["images" if "images" in names else names[0]]
            return images, np.asarray(arrays.get("labels", np.zeros(images.shape[:1])))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        reason = "is damaged, encrypted, too large, or holds more than plain arrays"
        raise DataError(f"{path} {reason}; nothing of it was run") from error


def _read_folder(path: Path, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    images = [_read_image(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            sizes = " and ".join("{} x {}".format(*each.shape) for each in (image, images[0]))
            raise DataError(
                f"{file} and {files[0]} have {sizes} pixels: all must have the same size"
            )
    classes = ["".join(file.relative_to(path).parent.parts[:1]) for file in files]
    return np.stack(images), np.unique(classes, return_inverse=True)[1]


def _read_image(file: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter(
                "error", Image.DecompressionBombWarning
            )  # it would unpack to gigabytes
            with Image.open(file, formats=["PNG", "JPEG"]) as image:
                if image.mode.startswith("I"):  # 16 bits, which PIL would cut off rather than scale
                    return np.rint(np.asarray(image) / 257).astype(np.uint8)
                return _grey(np.asarray(image.convert("RGBA"))[None])[0]
    except Exception as error:  # as above
        raise DataError(
            f"{file} can't be read as a PNG or JPEG file ({' '.join(str(error).split())})"
        ) from error


def _problem(images: np.ndarray, labels: np.ndarray) -> str:
    """Say in what way arrays are not images and labels, if any."""
    if images.ndim < 3 or images.shape[3:] not in ((), (1,), (3,), (4,)):
        shapes = "(N, h, w), or (N, h, w, 1, 3 or 4) for colours"
        return f"images of shape {images.shape}: must be {shapes}"
    count = len(images)
    if count < 2:
        return f"too few images ({count}): training and validation need one each"
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        return f"{images.dtype}: must be uint8, or floats in [0, 1]"
    if (
        images.dtype != np.uint8 and not 0 <= images.min(initial=0) <= images.max(initial=0) <= 1
    ):  # nor for NaN
        return "floats that are not in [0, 1]: divide them by the greatest possible"
    if labels.shape != (count,) or not _are_whole(labels):
        kind = f"shape {labels.shape} and type {labels.dtype}"
        return f"labels of {kind}: must be a whole number for each image"
    return ""


def _are_whole(labels: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # NaN and infinity equal no integer
        return labels.dtype.kind in "biuf" and bool((labels == labels.astype(np.int64)).all())


def _grey(images: np.ndarray) -> np.ndarray:
    """Turn floats and colours into uint8 of shape (N, h, w), over black as MNIST's background."""
    white = 255.0 if images.dtype == np.uint8 else 1.0
    if images.ndim == 4:
        channels = images.shape[3]
        grey = images[..., 0] if channels == 1 else images[..., :3] @ np.array(LUMA)
        images = grey * (images[..., 3] / white) if channels == 4 else grey
    return images if images.dtype == np.uint8 else np.rint(images * (255 / white)).astype(np.uint8)
