"""What is chosen, checked and loaded before the work of a run begins."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from cvae.data import CVAEMNIST, get_data, setting_name
from cvae.errors import UsageError
from cvae.images.catalogue import DATASETS
from cvae.images.sources import resolve_dataset
from cvae.run.output import delete_results, load_checkpoints
from cvae.run.settings import Settings
from cvae.storage.checkpoint import Checkpoint
from cvae.training import distributed
from cvae.training.forecast import Forecast
from cvae.training.launcher import launched
from cvae.training.progress import Progress

__all__ = ["Checkpoints", "begin_setting", "choose_device", "choose_jobs", "describe_splits", "make_forecast"]
__all__ += ["prepare", "run_name"]

logger = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")  # lists avx512_bf16 or amx_bf16 on x86, and bf16 on ARM

Checkpoints = dict[int, dict[int, Checkpoint]]  # seed: number of known quadrants: checkpoint


def choose_device(name: str) -> torch.device:
    """Turn a name into a device that is there.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA if it is there, else the CPU.

    Raises:
        UsageError: the device is absent.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if present["cuda"] else "cpu"
    if not present[name]:
        here = ", ".join(device for device in present if present[device])
        raise UsageError(f"--device {name} is absent here: choose from {here}")
    if name == "cuda" and launched().world_size > 1:  # a GPU for each process of this machine
        torch.cuda.set_device(launched().local_rank)
        return torch.device("cuda", launched().local_rank)
    return torch.device(name)


def prepare(settings: Settings, device: torch.device) -> tuple[Settings, Checkpoints]:
    """Check all that can be checked before the work, and load the checkpoints of an interrupted run.

    Args:
        settings: of the run.
        device: where it will compute.

    Returns:
        The settings with the data set and the number of jobs that ``auto`` stands for and the epochs that a small data
        set needs, and the checkpoints of all
        settings that are to be run or were run before in the same folders.

    Raises:
        DataError: the data set is missing, damaged or can't be downloaded.
        FileError: a checkpoint is damaged.
        UsageError: the data set has too few images, or the folders hold results of other settings.
    """
    if settings.precision == "bfloat16" and device.type == "cpu" and CPU_INFO.exists():  # as on Linux
        if "bf16" not in CPU_INFO.read_text():
            logger.warning("--precision bfloat16 takes longer than float32 on this CPU, which can't compute in it")
    dataset = resolve_dataset(settings.dataset, settings.data_dir) if distributed.is_main() else None
    settings = replace(settings, dataset=distributed.broadcast(dataset), jobs=choose_jobs(settings, device))
    with distributed.local_main_first():
        datasets, _, sizes = get_data(
            settings.num_quadrant_inputs[0], settings.batch_size, **settings.data_options()
        )
    settings = settings.with_enough_steps(sizes["train"])
    if settings.subset and settings.subset > sizes["train"]:
        raise UsageError(f"--subset {settings.subset} is more than the {sizes['train']:,} training images")
    *_, shown = datasets.values()
    if settings.num_images > len(shown):
        raise UsageError(f"--num-images {settings.num_images} is more than the {len(shown):,} images ({shown.name})")

    checkpoints: Checkpoints = {}
    if distributed.is_main():
        if settings.overwrite:
            delete_results(settings.output_dir)
        depends_on = {
            **settings.training_options(),
            "dataset": settings.dataset if settings.dataset in DATASETS else "own images",  # wherever they lie now
            "images": [data.original.fingerprint() for data in datasets.values()],
            "image_shape": list(shown.original.images.shape[1:]),
        }
        for seed in settings.seeds:
            checkpoints[seed] = load_checkpoints(
                settings.folder(seed), settings.num_quadrant_inputs, {**depends_on, "seed": seed}
            )
    return settings, distributed.broadcast(checkpoints)


def choose_jobs(settings: Settings, device: torch.device) -> int:
    """Return how many settings to run at a time, at most as many as there are.

    Raises:
        UsageError: they can't be side by side, as several processes share each of them.
    """
    if settings.jobs == 1:
        return 1
    if launched().world_size > 1:
        raise UsageError("--jobs is for a single process: leave it out, or start main.py without torchrun")
    processors = {"cpu": torch.get_num_threads(), "cuda": torch.cuda.device_count()}.get(device.type, 1)
    return min(settings.jobs or processors, len(list(settings.runs())))


def make_forecast(settings: Settings) -> Forecast:
    """Plan the work of all settings and seeds."""
    tasks = {"baseline": settings.baseline.num_epochs, "CVAE": settings.num_epochs, "evaluation": 1}
    return Forecast([run_name(settings, *each) for each in settings.runs()], tasks, settings.jobs or 1)


def run_name(settings: Settings, seed: int, n: int) -> str:
    """Name a setting, and of several seeds also the seed."""
    return setting_name(n) + (f", seed {seed}" if settings.several_seeds else "")


def begin_setting(progress: Progress, datasets: dict[str, CVAEMNIST], finished: Path | None) -> None:
    """Log which setting comes next, on which images and where, or from which file it is loaded if it is finished."""
    device = datasets["train"].original.images.device
    message = f"{describe_splits(datasets)}, {device}"
    if distributed.world_size() > 1:
        message += f" x {distributed.world_size()}"
    if finished:
        progress.drop("evaluation", 1)
        message += f"; done before, loaded from {finished}"
    progress.log(message)


def describe_splits(datasets: dict[str, CVAEMNIST]) -> str:
    """Return the names and sizes of all splits."""
    return ", ".join(f"{data.name} ({len(data):,} images)" for data in datasets.values())
