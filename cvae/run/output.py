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

CHECKPOINTS = "checkpoint_q[123].pt"
SEED_FOLDERS = "seed_*"
RESULTS = f"""
    results.csv results.md metrics.json model.png problem.png baseline_net_q[123].pth cvae_net_q[123].pth
    cvae_plot_q[123].png diversity_q[123].png training_q[123].png
    training_q[123].csv training_q[123].gif training_q[123].mp4 {CHECKPOINTS}
""".split()


@contextlib.contextmanager
def lock_output(settings: Settings) -> Iterator[None]:
    """Make and lock every folder that a run writes to; refuse them if they hold results of a run of another kind.

    Raises:
        UsageError: they do, or can't be made or written to.
        OSError: another run is writing to one of them.
    """
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(_lock(settings.output_dir))
            if not settings.overwrite:
                _refuse_mixture(settings.output_dir, settings.several_seeds)
            if settings.several_seeds:
                for seed in settings.seeds:
                    stack.enter_context(_lock(settings.folder(seed)))
        yield


def _lock(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Make a folder, check that it can be written to, and lock it against other runs until the context ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return filelock.FileLock(folder / ".lock").acquire(blocking=False)
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


def log_result_files(settings: Settings) -> None:
    """Log the names of all files in the folders of a run."""
    paths = _result_files([*map(settings.folder, settings.seeds), settings.output_dir])
    logger.info("Written:\n%s", "\n".join(f"  {path}" for path in paths))


def delete_results(folder: Path) -> None:
    """Delete what runs have written to a folder and its folders of seeds, and nothing else."""
    for path in _result_files([folder, *folder.glob(SEED_FOLDERS)]):
        path.unlink()


def _result_files(folders: list[Path]) -> list[Path]:
    """List the files that runs have written to some folders, by folder and name."""
    found: list[Path] = []
    for folder in dict.fromkeys(folders):
        found += sorted(path for pattern in RESULTS for path in folder.glob(pattern))
    return found
