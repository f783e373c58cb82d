"""The results of a run: saved evaluations, and the files that hold weights, tables and metrics."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn as nn

from cvae.data import CVAEMNIST
from cvae.evaluate import Evaluation
from cvae.run.settings import Settings
from cvae.run.tables import Results, Table
from cvae.storage.checkpoint import Checkpoint
from cvae.storage.files import atomic_write
from cvae.training import distributed
from cvae.training.history import History

__all__ = [
    "is_evaluated",
    "load_evaluations",
    "save_evaluations",
    "save_weights",
    "write_summary",
    "write_tables",
]


def is_evaluated(checkpoint: Checkpoint, settings: Settings) -> bool:
    """Whether nothing is left to do but to write files, as a setting was evaluated with these numbers of samples.

    Raises:
        FileError: the checkpoint does not fit.
    """
    with checkpoint.naming_the_file():
        parts = checkpoint.parts
        return "outcome" in parts and parts["outcome"]["options"] == settings.evaluation_options()


def save_evaluations(
    checkpoint: Checkpoint,
    settings: Settings,
    evaluations: dict[str, Evaluation],
    datasets: dict[str, CVAEMNIST],
    histories: dict[str, History],
    seconds: float,
) -> None:
    """Save the evaluations of a setting, by split, and all that ``metrics.json`` says of its training.

    Args:
        checkpoint: of the setting.
        settings: of the run.
        evaluations: by split.
        datasets: by split.
        histories: of ``baseline`` and ``CVAE``.
        seconds: that the evaluation took.
    """
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "pyro": pyro.__version__}
    summary = {
        **{
            net.lower(): {
                "epochs_run": len(history.epochs),
                "best_epoch": history.best_epoch,
                "seconds": history.seconds,
                "epochs": history.epochs,
            }
            for net, history in histories.items()
        },
        "evaluation_seconds": seconds,
        "seconds": sum(history.seconds for history in histories.values()) + seconds,
        "device": datasets["train"].original.images.device.type,
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
    outcome = {
        "options": settings.evaluation_options(),
        "evaluations": {split: asdict(evaluation) for split, evaluation in evaluations.items()},
        "splits": {split: {"name": data.name, "images": len(data)} for split, data in datasets.items()},
        "summary": summary,
    }
    checkpoint.save(outcome=outcome)


def load_evaluations(checkpoint: Checkpoint) -> dict[str, Evaluation]:
    """Return the saved evaluations of a setting, by split.

    Raises:
        FileError: the checkpoint does not hold them.
    """
    with checkpoint.naming_the_file():
        saved = checkpoint.parts["outcome"]["evaluations"]
        return {split: Evaluation.from_dict(evaluation) for split, evaluation in saved.items()}


def save_weights(folder: Path, num_quadrant_inputs: int, nets: Mapping[str, nn.Module]) -> None:
    """Write the plain state dicts ``{name}_q{n}.pth``.

    Args:
        folder: an existing folder.
        num_quadrant_inputs: the n of the file names.
        nets: by name, ``baseline_net`` and ``cvae_net``.

    Raises:
        OSError: a file can't be written; an older one of that name is not damaged.
    """
    for name, net in nets.items():
        weights = {key: value.cpu() for key, value in net.state_dict().items()}
        with atomic_write(folder / f"{name}_q{num_quadrant_inputs}.pth") as file:
            torch.save(weights, file)


def write_tables(settings: Settings, seed: int, checkpoints: dict[int, Checkpoint]) -> None:
    """Write ``results.csv``, ``results.md`` and ``metrics.json`` of one seed.

    Args:
        settings: of the run.
        seed: one of its seeds.
        checkpoints: by number of known quadrants; those not evaluated yet, or otherwise, are left out.

    Raises:
        FileError: a checkpoint does not fit.
        OSError: a file can't be written; an older one of that name is not damaged.
    """
    _tabulate(settings, seed, checkpoints).write(settings.folder(seed))


def write_summary(settings: Settings, checkpoints: dict[int, dict[int, Checkpoint]]) -> None:
    """Print the table of each seed, and of several seeds write and print the means."""
    tables = [_tabulate(settings, seed, by_quadrants) for seed, by_quadrants in checkpoints.items()]
    if settings.several_seeds:
        tables.append(Table.of_seeds(tables))
        tables[-1].write(settings.output_dir)
    for table in tables:
        print(f"\n{table.markdown()}", flush=True)


def _tabulate(settings: Settings, seed: int, checkpoints: dict[int, Checkpoint]) -> Table:
    """Make the table of one seed, of all settings that are evaluated with the same numbers of samples."""
    results: Results = {}
    metrics: dict[str, Any] = {
        "unit": "nats per image, negative conditional log-likelihood",
        "dataset": settings.dataset,
        "recipe": settings.description,
        "seed": seed,
        "settings": {},
    }
    for n, checkpoint in sorted(checkpoints.items()):
        if is_evaluated(checkpoint, settings):
            results[n] = load_evaluations(checkpoint)
            with checkpoint.naming_the_file():
                outcome = checkpoint.parts["outcome"]
                arguments = checkpoint.settings | outcome["options"]
                metrics["arguments"] = {name: str(value) for name, value in arguments.items()}
                metrics["image_shape"] = checkpoint.settings["image_shape"]
                metrics["splits"] = outcome["splits"]
                metrics["settings"][f"q{n}"] = outcome["summary"]
    metrics["seconds"] = sum(summary["seconds"] for summary in metrics["settings"].values())
    return Table.of_run(results, metrics, settings.diagnostics)
