"""The output folder: locked against other runs, and never holding a mixture of two."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock

from cvae.errors import UsageError
from cvae.run.settings import Settings
from cvae.storage.checkpoint import Checkpoint
from cvae.training import distributed

__all__ = ["delete_results", "load_checkpoints", "lock_output", "log_folders"]

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoint_q[123].pt"
SEED_FOLDERS = "seed_*"
RESULTS = f"""
    results.csv results.md metrics.json model.png problem.png baseline_net_q[123].pth cvae_net_q[123].pth
    cvae_plot_q[123].png diversity_q[123].png training_q[123].png
    training_q[123].csv training_q[123].gif training_q[123].mp4 {CHECKPOINTS}
""".split()


@contextlib.contextmanager
def lock_output(settings: Settings) -> Iterator[None]:
    """Make and lock every folder that a run writes to or deletes from; refuse results of a run of another kind.

    Raises:
        UsageError: a folder holds such results, or can't be made or written to.
        OSError: another run is writing to one of them.
    """
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(_lock(settings.output_dir))
            if not settings.overwrite:
                _refuse_mixture(settings.output_dir, settings.several_seeds)
            folders = set(map(settings.folder, settings.seeds))
            if settings.overwrite:
                folders |= set(_seed_folders(settings.output_dir))
            for folder in sorted(folders - {settings.output_dir}):
                stack.enter_context(_lock(folder))
        yield


def _lock(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Make a folder, check that it can be written to, and lock it against other runs until the context ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            lock = filelock.FileLock(folder / ".lock").acquire(blocking=False)
        for pattern in RESULTS:
            for leftover in folder.glob(f".{pattern}.*.part"):  # of a run that was killed while it wrote a file
                leftover.unlink()
        return lock
    except filelock.Timeout as error:
        raise OSError(f"another run is writing to {folder}: wait for it, or choose another --output-dir") from error
    except OSError as error:
        raise UsageError(f"can't write to {folder} ({error.strerror}): choose another --output-dir") from error


def _refuse_mixture(folder: Path, several_seeds: bool) -> None:
    """Refuse results of one seed for a run of several, the other way round, and results without a checkpoint."""
    single, several = sorted(folder.glob(CHECKPOINTS)), sorted(folder.glob(f"{SEED_FOLDERS}/{CHECKPOINTS}"))
    own, foreign = (several, single) if several_seeds else (single, several)
    if not own:
        foreign += [path for pattern in RESULTS for path in folder.glob(pattern)]
    if foreign:
        raise UsageError(
            f"{foreign[0]} is there from another run: choose another --output-dir, or start afresh with --overwrite"
        )


def load_checkpoints(folder: Path, quadrants: Iterable[int], settings: dict[str, Any]) -> dict[int, Checkpoint]:
    """Load the checkpoints of a folder, which must be of the same settings as this run.

    Args:
        folder: an output folder.
        quadrants: numbers of known quadrants, for each of which a checkpoint is returned, if only an empty one.
        settings: plain values by name.

    Returns:
        Checkpoints by number of known quadrants.

    Raises:
        FileError: a checkpoint is damaged.
        UsageError: settings differ; the message says which.
    """
    checkpoints = {n: Checkpoint(folder / f"checkpoint_q{n}.pt", settings) for n in quadrants}
    for path in sorted(folder.glob(CHECKPOINTS)):
        checkpoint = checkpoints[int(path.stem[-1])] = Checkpoint.load(path)
        there, here = ({name: str(value) for name, value in each.items()} for each in (checkpoint.settings, settings))
        differences = [
            f"{name.replace('_', ' ')} {there.get(name, 'unknown')} there, {here.get(name, 'unknown')} here"
            for name in here | there
            if there.get(name) != here.get(name)
        ]
        if differences:
            raise UsageError(
                f"{path} is of a run with other settings ({'; '.join(differences)}): repeat those, choose another "
                "--output-dir, or start afresh with --overwrite"
            )
    return checkpoints


def log_folders(settings: Settings) -> None:
    """Log which folders the files of a run are in."""
    folders = dict.fromkeys([settings.output_dir, *map(settings.folder, settings.seeds)])
    logger.info("Written to %s", ", ".join(map(str, folders)))


def delete_results(folder: Path) -> None:
    """Delete what runs have written to a folder and its folders of seeds, and nothing else."""
    for each in (folder, *_seed_folders(folder)):
        for path in [path for pattern in RESULTS for path in each.glob(pattern)]:
            path.unlink()


def _seed_folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob(SEED_FOLDERS) if path.is_dir()]
