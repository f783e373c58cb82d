"""What makes a run resume: atomic writes, checked reads, the checkpoint of a run, a lock."""

import contextlib
import os
import random
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import pyro
import torch
from torch import Tensor

from cvae.config import UsageError

__all__ = ["Checkpoint", "FileError", "atomic_write", "lock_folder", "random_state"]
__all__ += ["read_tensors", "seed_stage", "set_random_state"]


class FileError(RuntimeError):
    """A file of an earlier run is missing, damaged or belongs to another run."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of ``path`` once it is on the disk in full.

    Whatever happens, even a loss of power, ``path`` is the old file or the new one.

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


class Checkpoint:
    """One file with all that it takes to resume a run, replaced as a whole with every save.

    Args:
        path: of the file; if it is there, it is read.
        config: what the trained nets depend on, plain values by name.
        older: what options were that a file of an older version does not name.

    Attributes:
        parts: plain values and tensors by name: the training of each net, and the evaluation.

    Raises:
        FileError: the file is damaged, or of an older version.
        UsageError: it is of a run with another config; the message names what differs.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], older: dict[str, Any] | None = None
    ) -> None:
        self.path, self.config, self.parts = path, config, dict[str, Any]()
        if path.exists():
            with self.reading():
                saved = read_tensors(path)
                self._compare((older or {}) | saved["config"])
                self.parts = saved["parts"]

    def _compare(self, there: dict[str, Any]) -> None:
        differences = [
            f"{name.replace('_', ' ')} {there.get(name)} there, {self.config.get(name)} here"
            for name in self.config | there
            if there.get(name) != self.config.get(name)
        ]
        if differences:
            advice = "repeat those, choose another --output-dir, or start afresh with --overwrite"
            reason = f"{self.path} is of a run with other options ({'; '.join(differences)})"
            raise UsageError(f"{reason}: {advice}")

    def save(self, **parts: Any) -> None:
        """Add or replace parts and write the file."""
        self.parts |= parts
        with atomic_write(self.path) as file:
            torch.save({"config": self.config, "parts": self.parts}, file)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn whatever wrong content of the file leads to into one line that names it.

        Raises:
            FileError: in place of that.
        """
        try:
            yield
        except UsageError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            advice = "delete it, or start afresh with --overwrite"
            raise FileError(f"{self.path} is damaged, or of another version: {advice}") from error


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder, check that it can be written to, and keep other runs out of it.

    Raises:
        UsageError: it can't be made or written to.
        OSError: another run is writing to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            lock = filelock.FileLock(folder / ".lock").acquire(blocking=False)
        for pattern in (".*.part", "seed_*/.*.part"):  # of processes that were killed
            for leftover in folder.glob(pattern):
                leftover.unlink()
    except filelock.Timeout as error:
        advice = "wait for it, or choose another --output-dir"
        raise OSError(f"another run is writing to {folder}: {advice}") from error
    except OSError as error:
        reason = f"can't write to {folder} ({error.strerror})"
        raise UsageError(f"{reason}: choose another --output-dir") from error
    with lock:
        yield


def seed_stage(seed: int, *stage: object) -> None:
    """Seed the random numbers of a stage of a run, so that it does not depend on those before."""
    words = " ".join(map(str, (seed, *stage)))
    pyro.set_rng_seed(random.Random(words).getrandbits(32))


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of PyTorch's random number generators, all that training draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Restore what :func:`random_state` returned."""
    for device, values in state.items():
        module = torch if device == "cpu" else torch.get_device_module(device)
        module.set_rng_state(values)
