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

__all__ = ["delete_results", "load_checkpoints", "lock_output", "log_result_files"]

logger = logging.getLogger(__name__)

RESULTS = ["results.csv", "results.md", "metrics.json", "model.png", "problem.png"]
RESULTS += [f"{name}_q[123].pth" for name in ("baseline_net", "cvae_net")]
RESULTS += [f"{name}_q[123].png" for name in ("cvae_plot", "diversity", "training")]
RESULTS += [f"training_q[123].{ending}" for ending in ("csv", "gif", "mp4")]
CHECKPOINTS = "checkpoint_q[123].pt"
SEED_FOLDERS = "seed_*"


def lock_folder(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Make a folder, check that it can be written to, and lock it against other runs until the context ends.

    Raises:
        UsageError: it can't be made or written to.
        OSError: another run has locked it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"can't write to {folder} ({error.strerror}): choose another --output-dir") from error
    try:
        return filelock.FileLock(folder / ".lock").acquire(blocking=False)
    except filelock.Timeout as error:
        raise OSError(f"another run is writing to {folder}: wait for it, or choose another --output-dir") from error


@contextlib.contextmanager
def lock_output(settings: Settings) -> Iterator[None]:
    """Lock every folder that a run writes to; refuse them if they hold results of a run of another kind.

    Raises:
        UsageError: they do, or can't be written to.
        OSError: another run is writing to one of them.
    """
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(lock_folder(settings.output_dir))
            if not settings.overwrite:
                refuse_mixture(settings.output_dir, settings.several_seeds)
            if settings.several_seeds:
                for seed in settings.seeds:
                    stack.enter_context(lock_folder(settings.folder(seed)))
        yield


def refuse_mixture(folder: Path, several_seeds: bool) -> None:
    """Refuse a folder that holds results of a run of another kind, or results without a checkpoint.

    Args:
        folder: the output folder.
        several_seeds: whether the run has a folder for each seed in it, and a table of means.

    Raises:
        UsageError: it holds such results.
    """
    single, several = sorted(folder.glob(CHECKPOINTS)), sorted(folder.glob(f"{SEED_FOLDERS}/{CHECKPOINTS}"))
    own, foreign = (several, single) if several_seeds else (single, several)
    if not own:
        foreign += [path for pattern in RESULTS for path in folder.glob(pattern)]
    if foreign:
        raise UsageError(
            f"{foreign[0]} is there from another run: choose another --output-dir, or start afresh with "
            "--overwrite"
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


def result_files(folder: Path) -> list[Path]:
    """List the files that runs have written to a folder, by name."""
    return sorted(path for pattern in (*RESULTS, CHECKPOINTS) for path in folder.glob(pattern))


def log_result_files(settings: Settings) -> None:
    """Log the names of all files in the folders of a run."""
    folders = dict.fromkeys([*map(settings.folder, settings.seeds), settings.output_dir])
    paths = [path for folder in folders for path in result_files(folder)]
    logger.info("Written:\n%s", "\n".join(f"  {path}" for path in paths))


def delete_results(folder: Path) -> None:
    """Delete what runs have written to a folder and its folders of seeds, and nothing else."""
    for place in (folder, *folder.glob(SEED_FOLDERS)):
        for path in result_files(place):
            path.unlink()
