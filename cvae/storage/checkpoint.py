"""The checkpoint of a setting: one file with all that it takes to resume it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cvae.errors import FileError
from cvae.storage.files import atomic_write, read_tensors

__all__ = ["Checkpoint"]

FORMAT = 6  # goes up when older files can no longer be resumed


@dataclass
class Checkpoint:
    """One file, replaced as a whole with every save.

    Attributes:
        path: of the file.
        settings: what the trained nets depend on, plain values by name.
        parts: plain values and tensors by name: the state of each net's training, and the evaluation.
    """

    path: Path
    settings: dict[str, Any]
    parts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read the file.

        Raises:
            FileError: it is damaged, contains code, or is no checkpoint.
        """
        checkpoint = cls(path, {})
        with checkpoint.naming_the_file():
            stored = read_tensors(path)
            if stored["format"] != FORMAT:
                raise ValueError(f"its format is {stored['format']} instead of {FORMAT}")
            checkpoint.settings, checkpoint.parts = dict(stored["settings"]), dict(stored["parts"])
        return checkpoint

    def reload(self) -> None:
        """Read the file again, if there is one, as another process may have written to it.

        Raises:
            FileError: it is damaged.
        """
        if self.path.exists():
            self.parts = Checkpoint.load(self.path).parts

    def save(self, **parts: Any) -> None:
        """Add or replace parts and write the file."""
        self.parts |= parts
        with atomic_write(self.path) as file:
            torch.save({"format": FORMAT, "settings": self.settings, "parts": self.parts}, file)

    def restore(self, part: str, load_state_dict: Callable[[dict[str, Any]], None]) -> None:
        """Load a part, if it was saved, by the method of what it was saved from.

        Raises:
            FileError: its content does not fit.
        """
        if part in self.parts:
            with self.naming_the_file():
                load_state_dict(self.parts[part])

    @contextlib.contextmanager
    def naming_the_file(self) -> Iterator[None]:
        """Turn what a wrong type, key, shape or value in the file leads to into one line that names it.

        Raises:
            FileError: in place of that.
        """
        try:
            yield
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error)
            if not isinstance(error, FileError):
                cause = f"{type(error).__name__}: {' '.join(reason.split()):.200}"
                reason = f"{self.path} does not fit this run ({cause})"
            raise FileError(f"{reason}: delete it, or start afresh with --overwrite") from error
