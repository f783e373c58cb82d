"""Files that are written atomically, and checked before they are loaded."""

import contextlib
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from cvae.errors import FileError

__all__ = ["atomic_write", "read_tensors"]


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` that takes its place once it is on the disk in full.

    Whatever happens, even a loss of power, ``path`` is the old file or the new one.

    Raises:
        OSError: it can't be written; the message names it.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # PyTorch gives a failed write as a RuntimeError with the reason behind it
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(
            f"can't write {path} ({cause.strerror}): what was saved before is whole; when that is put right, "
            "the same command continues"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _flush_folder(folder: Path) -> None:
    """Make a rename durable, on systems where a folder can be flushed."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_tensors(path: Path) -> Any:
    """Read tensors and plain values that ``torch.save`` wrote; code in the file is refused, never run.

    Args:
        path: a file in PyTorch's zip format, which holds a CRC-32 of each part.  PyTorch itself does not
            compare these.

    Returns:
        What was saved, on the CPU.

    Raises:
        FileError: it can't be read, is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileError(f"{path} is not a file" if path.exists() else f"{path} is missing")
    try:
        with open(path, "rb") as file:
            with zipfile.ZipFile(file) as archive:
                # of an entry that is marked as a folder PyTorch would return memory that nobody wrote to
                if archive.testzip() is not None or any(map(_is_unusual, archive.infolist())):
                    raise zipfile.BadZipFile
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"{path} can't be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path} holds more than tensors and plain values, perhaps code; nothing of it was run"
        ) from error
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        raise FileError(f"{path} is damaged, or no file of PyTorch") from error


def _is_unusual(entry: zipfile.ZipInfo) -> bool:
    """Tell whether PyTorch would not have written an entry like this: compressed, or no plain file."""
    return entry.compress_type != zipfile.ZIP_STORED or entry.external_attr != 0
