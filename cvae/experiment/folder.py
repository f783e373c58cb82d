"""The output folder: locked, checked before anything is written, emptied on request."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import filelock
import torch
import torch.nn as nn

from cvae import distributed
from cvae.datasets import DATASETS, load_images, resolve_dataset
from cvae.experiment.checkpoint import Checkpoint
from cvae.experiment.options import Config, Run
from cvae.files import FILES, SEED_FOLDER, UsageError, atomic_write
from cvae.own_images import find_own_images

__all__ = ["lock_folder", "open_checkpoint", "open_checkpoints", "prepare", "save_weights"]


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder, check that it can be written to, and keep other runs out of it.

    Of the processes of ``torchrun``, only the one that writes locks it.

    Raises:
        UsageError: it can't be made or written to.
        OSError: another run is writing to it.
    """
    if not distributed.is_main():
        yield
        return
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


def prepare(config: Config) -> Config:
    """Load the data set, and refuse an output folder that holds results of another kind.

    Returns:
        The config with the data set that ``auto`` stands for.

    Raises:
        DataError: the data set is missing, damaged or can't be downloaded.
        FileError: a checkpoint is damaged, or of another version.
        UsageError: the folder holds results of other options.
    """
    dataset = resolve_dataset(config.data.dataset, config.data.data_dir)
    config = replace(config, data=replace(config.data, dataset=dataset))
    config.data.get_data(1)  # whatever is wrong with the data is told before anything is deleted
    folder = config.output_dir
    if dataset not in DATASETS:
        sources = {Path(dataset), *(file.parent for file in find_own_images(dataset))}
        if folder.resolve() in {source.resolve() for source in sources}:
            raise UsageError(f"{folder} holds the data set: choose another --output-dir")
    seed_folders = sorted(folder.glob(SEED_FOLDER.format(seed="*")))
    if config.overwrite:
        for path in _find([folder, *seed_folders], *FILES):
            path.unlink()
    single, several = _find([folder], "checkpoint"), _find(seed_folders, "checkpoint")
    own, others = (several, single) if config.several_seeds else (single, several)
    if foreign := others or (not own and _find([folder], *FILES)):
        advice = "choose another --output-dir, or start afresh with --overwrite"
        raise UsageError(f"{foreign[0]} is there from another run: {advice}")
    for seed in config.seeds:
        config.folder(seed).mkdir(exist_ok=True)
        open_checkpoints(config, seed)
    return config


def _find(folders: Sequence[Path], *files: str) -> list[Path]:
    patterns = [FILES[file].format(n="[123]") for file in files]
    return [path for folder in folders for pattern in patterns for path in folder.glob(pattern)]


def open_checkpoint(run: Run) -> Checkpoint:
    """Read the checkpoint of a run, or begin one.

    Raises:
        FileError: it is damaged, or of another version.
        UsageError: it is of a run with other options, or of other images.
    """
    data = run.config.data
    splits = load_images(data.dataset, data.data_dir)
    depends_on = {
        **run.config.training_options,
        "dataset": data.dataset if data.dataset in DATASETS else "own images",  # wherever they lie
        "images": [images.fingerprint() for images in splits.values()],
        "image_shape": list(splits["train"].images.shape[1:]),
        "seed": run.seed,
    }
    return Checkpoint(run.path("checkpoint"), depends_on)


def open_checkpoints(config: Config, seed: int) -> dict[int, Checkpoint]:
    """Read all checkpoints in the folder of a seed, by number of known quadrants."""
    runs = [Run(config, seed, n) for n in (1, 2, 3)]
    there = [run for run in runs if run.path("checkpoint").exists()]
    return {run.num_quadrant_inputs: open_checkpoint(run) for run in there}


def save_weights(run: Run, nets: dict[str, nn.Module]) -> None:
    """Write the plain state dicts of ``baseline`` and ``cvae``, as the tutorial does."""
    for name, net in nets.items():
        weights = {key: value.cpu() for key, value in net.state_dict().items()}
        with atomic_write(run.path(name)) as file:
            torch.save(weights, file)
