"""Files and the errors that users see: names, atomic writes, checked reads."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

__all__ = ["FILES", "SEED_FOLDER", "CVAEError", "DataError", "FileError", "ModelError", "RunError"]
__all__ += ["UsageError", "atomic_write", "read_tensors"]

# The files of a run; n is the number of known quadrants.
FILES = {
    "checkpoint": "checkpoint_q{n}.pt",
    "baseline": "baseline_net_q{n}.pth",
    "cvae": "cvae_net_q{n}.pth",
    "table": "results.csv",
    "text": "results.md",
    "long": "results_long.csv",
    "per_image": "per_image_q{n}.csv",
    "metrics": "metrics.json",
    "samples": "cvae_plot_q{n}.png",
    "diversity": "diversity_q{n}.png",
    "losses": "training_q{n}.csv",
    "training": "training_q{n}.png",
    "animation": "training_q{n}.gif",
    "problem": "problem.png",
    "demo": "demo.html",
}
SEED_FOLDER = "seed_{seed}"  # of each of several seeds


class CVAEError(Exception):
    """What the package itself refuses or can't do; its message is enough."""


class UsageError(CVAEError, ValueError):
    """The command line or an argument asks for something that cannot be done."""


class DataError(CVAEError, RuntimeError):
    """The data set is missing, damaged or cannot be downloaded."""


class FileError(CVAEError, RuntimeError):
    """A file of an earlier run is missing, damaged or belongs to another run."""


class ModelError(CVAEError):
    """A model can't be evaluated as it is."""


class RunError(CVAEError, RuntimeError):
    """Some runs of a command have failed."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of ``path`` once it is on the disk in full.

    Whatever happens, even a loss of power, ``path`` is the old file or the new one.  Do nothing but
    write to it in the ``with`` block: any ``OSError`` there is taken for a failure to write.

    Raises:
        OSError: it can't be written; the message names it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # PyTorch gives a failed write as a RuntimeError with the reason behind it
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        advice = "what was saved before is intact, and the same command resumes"
        raise OSError(f"can't write {path} ({cause.strerror}): {advice}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_tensors(path: Path) -> Any:
    """Read tensors and plain values that ``torch.save`` wrote; code in the file is never run.

    Returns:
        What was saved, on the CPU.

    Raises:
        OSError: the file can't be read.
        FileError: it is damaged, or holds more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not compare the checksums
                raise zipfile.BadZipFile
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file makes the parsers raise almost anything
        raise FileError(
            f"{path} is damaged, or holds more than tensors and plain values"
        ) from error
