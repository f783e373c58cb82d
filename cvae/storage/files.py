"""Files that are written atomically, and checked before they are loaded."""

import contextlib
import os
import pickle
import secrets
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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:  # never through a link that somebody has put there
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # PyTorch gives a failed write as a RuntimeError with the reason behind it
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        reason = f"can't write {path} ({cause.strerror})"
        raise OSError(f"{reason}: what was saved before is intact, and the same command resumes") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            # PyTorch's entries are plain: of one marked as a folder it would return memory that nobody wrote to
            plain = not any(entry.compress_type or entry.external_attr for entry in archive.infolist())
            if not plain or archive.testzip() is not None:
                raise zipfile.BadZipFile
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"{path} can't be read ({error.strerror})") from error
    except pickle.UnpicklingError as error:
        raise FileError(f"{path} holds more than tensors and plain values; nothing of it was run") from error
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        raise FileError(f"{path} is damaged, or no file of PyTorch") from error
