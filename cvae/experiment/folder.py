"""The output folder: locked, checked before anything is written, emptied on request."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import filelock
import torch
import torch.nn as nn

from cvae import distributed
from cvae.datasets import DATASETS, resolve_dataset
from cvae.evaluate import evaluate
from cvae.experiment.checkpoint import OTHER_FOLDER, Checkpoint, seed_stage
from cvae.experiment.code import NO_SOURCE, forget_sources, hash_code
from cvae.experiment.models import find_model, model_name
from cvae.experiment.options import MODEL, Config, DataConfig, Identity, Run
from cvae.files import FILES, SEED_FOLDER, UsageError, atomic_write
from cvae.own_images import find_own_images

__all__ = ["check_code", "lock_folder", "open_checkpoint", "open_checkpoints", "prepare"]
__all__ += ["save_weights"]

logger = logging.getLogger(__name__)

# What decides neither weights nor numbers: images have fingerprints, whatever has read them.
NOT_FOLLOWED = ("cvae.datasets", "cvae.own_images", "cvae.experiment", "cvae.files")
OF_EVALUATION = ("cvae.estimators", "cvae.evaluate")


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


def prepare(config: Config, pipeline: Callable[[Run], None], model: type) -> Config:
    """Load the data set, and refuse an output folder that holds results of another kind.

    Every process of ``torchrun`` calls it, and gets what the main one has found out.

    Args:
        config: of the command line.
        pipeline: what does a run.
        model: class of the CVAE, if the config has none of its own.

    Returns:
        The config with the data set that ``auto`` stands for, the model, and the identity of runs.

    Raises:
        DataError: the data set is missing, damaged or can't be downloaded.
        FileError: a checkpoint is damaged, or of another version.
        UsageError: the folder holds results of other options or code, or there is no such model.
    """
    forget_sources()
    if config.model.model == MODEL:
        config = replace(config, model=replace(config.model, model=model_name(model)))
    find_model(config.model.model)
    if config.jobs != 1 and config.model.model.startswith("__main__:"):
        raise UsageError("--jobs needs the model in a file: give --model mine.py:Name")
    config = distributed.from_main(_prepare, config, pipeline)
    if distributed.world_size() > 1:
        check_code(config, pipeline)
    return config


def _prepare(config: Config, pipeline: Callable[[Run], None]) -> Config:
    dataset = resolve_dataset(config.data.dataset, config.data.data_dir)
    config = replace(config, data=replace(config.data, dataset=dataset))
    # Whatever is wrong with data or options is told before anything is deleted.
    datasets, dataloaders, _ = config.data.get_data(1)
    config.make_phases(len(dataloaders["train"]))
    identity = Identity(
        images={split: data.source.fingerprint() for split, data in datasets.items()},
        image_shape=tuple(datasets["train"].source.images.shape[1:]),
        training=_training_code(config, pipeline),
        evaluation=_evaluation_code(config, pipeline),
    )
    config = replace(config, identity=identity)
    for name in identity.training:
        if name.endswith(NO_SOURCE):
            logger.warning("Warning: the code of %s, so no run of it can be resumed", name)
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
        raise UsageError(f"{foreign[0]} is there from another run: {OTHER_FOLDER}")
    for seed in config.seeds:
        config.folder(seed).mkdir(exist_ok=True)
    _check_seeds(config, seed_folders)
    return config


def _training_code(config: Config, pipeline: Callable[[Run], None]) -> dict[str, str]:
    """Hash the code that decides the weights of a run, by file."""
    model = find_model(config.model.model)
    roots = [pipeline, model, DataConfig.get_data, Config.make_phases, seed_stage]
    return hash_code(roots, NOT_FOLLOWED + OF_EVALUATION)


def _evaluation_code(config: Config, pipeline: Callable[[Run], None]) -> dict[str, str]:
    """Hash the code that decides the evaluation of trained nets, by file."""
    return hash_code([pipeline, evaluate, find_model(config.model.model)], NOT_FOLLOWED)


def check_code(config: Config, pipeline: Callable[[Run], None]) -> None:
    """Check that all processes of a run have the code of the one that was asked.

    Raises:
        UsageError: one has not.
    """
    identity, differ = config.identity, []
    for here, there in (
        (_training_code(config, pipeline), identity.training),
        (_evaluation_code(config, pipeline), identity.evaluation),
    ):
        differ += [file for file in there if here.get(file) != there[file]]
    if differ := sum(distributed.gather(differ), []):
        raise UsageError(f"a process has other code than the first: {', '.join(differ)}")


def _check_seeds(config: Config, seed_folders: Sequence[Path]) -> None:
    """Open all checkpoints, and refuse seeds of other options, or of other code of training."""
    prefix = SEED_FOLDER.format(seed="")
    names = [folder.name.removeprefix(prefix) for folder in seed_folders if config.several_seeds]
    seeds = {*config.seeds, *(int(name) for name in names if name.isdecimal())}
    found = [each for seed in seeds for each in open_checkpoints(config, seed).values()]
    trained = [checkpoint.trained_by for checkpoint in found]
    if not all(run.path("checkpoint").exists() for run in config.runs()):
        trained.append(config.identity.training)
    if config.several_seeds and any(code != trained[0] for code in trained):
        raise UsageError(f"the seeds would be trained by different code: {OTHER_FOLDER}")


def _find(folders: Sequence[Path], *files: str) -> list[Path]:
    patterns = [FILES[file].format(n="[123]") for file in files]
    return [path for folder in folders for pattern in patterns for path in folder.glob(pattern)]


def open_checkpoint(run: Run) -> Checkpoint:
    """Read the checkpoint of a run, or begin one.

    Raises:
        FileError: it is damaged, or of another version.
        UsageError: it is of a run with other options, images or code.
    """
    config = run.config
    own_images = config.data.dataset not in DATASETS
    depends_on = {
        **config.training_options,
        "dataset": "own images" if own_images else config.data.dataset,  # wherever they lie
        "images": config.identity.images,
        "image_shape": list(config.identity.image_shape),
        "seed": run.seed,
    }
    for name, value in vars(config.baseline).items():  # what it does not share with the CVAE
        if name not in ("num_epochs", "min_steps") and value != getattr(config.cvae, name):
            depends_on[f"baseline_{name}"] = value
    path = run.path("checkpoint")
    return Checkpoint(path, depends_on, config.identity.training, config.keep_trained)


def open_checkpoints(config: Config, seed: int) -> dict[int, Checkpoint]:
    """Read all checkpoints in the folder of a seed, by number of known quadrants."""
    runs = [Run(config, seed, n) for n in (1, 2, 3)]
    there = [run for run in runs if run.path("checkpoint").exists()]
    return {run.num_quadrant_inputs: open_checkpoint(run) for run in there}


def save_weights(run: Run, nets: dict[str, nn.Module]) -> None:
    """Write the plain state dicts of ``baseline`` and ``cvae``, as the tutorial does."""
    for name, net in nets.items():
        names = {key: key.replace("_orig_mod.", "") for key in net.state_dict()}  # as compiled
        weights = {names[key]: value.cpu() for key, value in net.state_dict().items()}
        with atomic_write(run.path(name)) as file:
            torch.save(weights, file)
