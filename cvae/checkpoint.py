"""What is done of one setting of a run, so that the same command can go on from there."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from cvae.distributed import is_main
from cvae.files import FileError, read, replacing

__all__ = ["Checkpoint", "Stage", "Stateful"]

FORMAT = 3  # goes up when older files can no longer be continued


class Stateful(Protocol):
    """What can be put away and taken up again, as PyTorch's modules can."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, stored: dict[str, Any]) -> None: ...


@dataclass
class Checkpoint:
    """One file with all that is known of a setting, replaced whole with every change.

    Attributes:
        path: of the file.
        settings: what the figures depend on, plain values by name.
        parts: plain values and tensors by name: a part for each stage, and what else was saved.
    """

    path: Path
    settings: dict[str, Any]
    parts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read the file.

        Raises:
            FileError: it is damaged, hostile, or no checkpoint.
        """
        checkpoint = cls(path, {})
        with checkpoint.believing():
            stored = read(path)
            if stored["format"] != FORMAT:
                raise ValueError(f"its format is {stored['format']} instead of {FORMAT}")
            checkpoint.settings, checkpoint.parts = dict(stored["settings"]), dict(stored["parts"])
        return checkpoint

    def save(self, **parts: Any) -> None:
        """Add or replace parts, and have the main process write the file."""
        self.parts |= parts
        if is_main():
            with replacing(self.path) as file:
                torch.save({"format": FORMAT, "settings": self.settings, "parts": self.parts}, file)

    @contextlib.contextmanager
    def believing(self) -> Iterator[None]:
        """Turn what goes wrong with the content of the file into one line that names it.

        Raises:
            FileError: instead of what a wrong type, key, shape or value leads to.
        """
        try:
            yield
        except FileError as error:
            raise FileError(f"{error}: delete it, or start afresh with --overwrite") from error
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise FileError(
                f"{self.path} does not fit this run ({type(error).__name__}: {reason:.200}): delete it, or "
                "start afresh with --overwrite"
            ) from error


class Stage:
    """The part of a checkpoint that belongs to one stage of the work.

    Args:
        checkpoint: the whole.
        name: of the stage.
    """

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.checkpoint = checkpoint
        self.name = name

    def restore(self, work: Stateful) -> bool:
        """Take up the work where it was put away, if it was, and tell whether.

        Raises:
            FileError: what is stored does not fit.
        """
        if self.name not in self.checkpoint.parts:
            return False
        with self.checkpoint.believing():
            work.load_state_dict(self.checkpoint.parts[self.name])
        return True

    def keep(self, work: Stateful) -> None:
        """Put the work away, on the disk."""
        self.checkpoint.save(**{self.name: work.state_dict()})
