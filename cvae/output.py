"""The folder that a run writes to: for one run at a time, with room for it, and never mixed from two."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from cvae.checkpoint import Checkpoint
from cvae.options import UsageError

__all__ = ["check_room", "check_settings", "check_unmixed", "checkpoint_path", "claim", "clear", "written"]

PRODUCTS = (
    "results.csv",
    "results.md",
    "metrics.json",
    "baseline_net_q[123].pth",
    "cvae_net_q[123].pth",
    "cvae_plot_q[123].png",
    "diversity_q[123].png",
    "training_q[123].csv",
    "training_q[123].gif",
    "training_q[123].mp4",
    "training_q[123].png",
    "model.png",
    "problem.png",
)
CHECKPOINTS = "checkpoint_q[123].pt"
SEEDS = "seed_*"  # folders of the runs with a seed each

# In sizes of a whole CVAE: what a setting leaves, and what a checkpoint takes while it is replaced.
SIZES_PER_SETTING = 2.5
SIZES_IN_BETWEEN = 6.5


def checkpoint_path(folder: Path, num_quadrant_inputs: int) -> Path:
    """Name the checkpoint of a setting."""
    return folder / f"checkpoint_q{num_quadrant_inputs}.pt"


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Make a folder, try to write to it, and keep other runs out of it.

    Raises:
        UsageError: it can't be made or written to.
        OSError: another run has claimed it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"can't write to {folder} ({error.strerror}): choose another --output-dir"
        ) from error
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise OSError(
            f"another run is writing to {folder}: wait for it, or choose another --output-dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_room(folder: Path, unfinished: int, bytes_of_nets: int) -> None:
    """Make sure that so many settings, each with nets of that size, have room on the disk.

    Raises:
        OSError: there is less.
    """
    if unfinished == 0:
        return
    needed = int((SIZES_PER_SETTING * unfinished + SIZES_IN_BETWEEN) * bytes_of_nets)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has room for {free / 1e6:.0f} MB, and the run may need {needed / 1e6:.0f} MB: make room, or "
            "choose another --output-dir"
        )


def check_unmixed(folder: Path, several_seeds: bool) -> None:
    """Make sure that a folder holds nothing of a run of another kind, or of one that can't be continued.

    Args:
        folder: the output folder.
        several_seeds: the run has a folder for each of several seeds in it, and tables of their means.

    Raises:
        UsageError: it does.
    """
    here, below = sorted(folder.glob(CHECKPOINTS)), sorted(folder.glob(f"{SEEDS}/{CHECKPOINTS}"))
    own, strange = (below, here) if several_seeds else (here, below)
    if not own:
        strange += [path for pattern in PRODUCTS for path in folder.glob(pattern)]
    if strange:
        raise UsageError(
            f"{strange[0]} is there from another run: choose another --output-dir, or start afresh with "
            "--overwrite"
        )


def check_settings(folder: Path, settings: dict[str, Any]) -> dict[int, Checkpoint]:
    """Read the checkpoints of a folder and compare their settings with those of this run.

    Args:
        folder: an output folder.
        settings: plain values by name.

    Returns:
        Checkpoints by number of known quadrants.

    Raises:
        FileError: a checkpoint can't be trusted.
        UsageError: settings differ; the message says which.
    """
    found = {}
    for path in sorted(folder.glob(CHECKPOINTS)):
        checkpoint = Checkpoint.load(path)
        stored = checkpoint.settings
        differences = [
            f"{name.replace('_', ' ')} {_shown(stored, name)} there, {_shown(settings, name)} here"
            for name in settings | stored
            if _shown(stored, name) != _shown(settings, name)
        ]
        if differences:
            raise UsageError(
                f"{path} is of a run with other settings ({'; '.join(differences)}): repeat those, choose another "
                "--output-dir, or start afresh with --overwrite"
            )
        found[int(path.stem[-1])] = checkpoint
    return found


def _shown(settings: dict[str, Any], name: str) -> str:
    return str(settings[name]) if name in settings else "unknown"


def written(folder: Path) -> list[Path]:
    """List what runs have left in a folder, by name."""
    return sorted(path for pattern in (*PRODUCTS, CHECKPOINTS) for path in folder.glob(pattern))


def clear(folder: Path) -> None:
    """Delete what earlier runs left in a folder and its folders of seeds, and nothing else."""
    for place in (folder, *folder.glob(SEEDS)):
        for path in written(place):
            path.unlink()
