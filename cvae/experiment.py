"""From the command line to files: for each setting train the baseline, then the CVAE, evaluate and draw."""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from cvae.baseline import BaselineNet
from cvae.checkpoint import Checkpoint, Stage
from cvae.data import CVAEMNIST, get_data, make_loader
from cvae.evaluate import Evaluation, draw_samples, evaluate
from cvae.model import CVAE
from cvae.options import UsageError
from cvae.output import check_room, check_settings, checkpoint_path, clear
from cvae.plot import plot_samples
from cvae.recipes import describe
from cvae.report import Results, Table, as_plain, save_setting, save_tables, setting_name
from cvae.runtime import seed_stage, versions
from cvae.schedule import Schedule
from cvae.train import train_baseline, train_cvae

__all__ = ["prepare", "run_seed"]

# Flags that a repeated command may change: where things are, what is asked for now, and what is shown.
CHANGEABLE = (
    "num_quadrant_inputs",
    "data_dir",
    "device",
    "cuda",
    "num_images",
    "num_samples",
    "diagnostics",
    "output_dir",
    "overwrite",
    "seeds",
    "debug",
)
VALIDATION_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


Checkpoints = dict[int, Checkpoint]  # by number of known quadrants


def prepare(args: argparse.Namespace, dataset: str, folders: dict[int, Path]) -> dict[int, Checkpoints]:
    """Check all that can be checked before the work, and find what is done of it.

    Args:
        args: the command line, as from :func:`cvae.options.parse_args`.
        dataset: name of the data set, not ``"auto"``.
        folders: where to write, by seed; claimed by this run.

    Returns:
        By seed, checkpoints of all settings that were begun or are to be.

    Raises:
        DataError: the data set can't be had.
        FileError: a checkpoint can't be trusted.
        OSError: there is too little room on the disk.
        UsageError: the data set has fewer images than the command line asks for, or the folders hold what
            this run must not overwrite.
    """
    _load(args, args.num_quadrant_inputs[0], dataset, torch.device("cpu"))
    if args.overwrite:
        clear(args.output_dir)
    runs = {}
    for seed, folder in folders.items():
        settings = _settings(args, seed, dataset)
        runs[seed] = check_settings(folder, settings)
        for n in args.num_quadrant_inputs:
            runs[seed].setdefault(n, Checkpoint(checkpoint_path(folder, n), settings))
    with torch.device("meta"):
        nets = _make_cvae(args, BaselineNet())
    check_room(
        args.output_dir,
        unfinished=sum("outcome" not in c.parts for run in runs.values() for c in run.values()),
        bytes_of_nets=sum(parameter.nbytes for parameter in nets.parameters()),
    )
    return runs


def _settings(args: argparse.Namespace, seed: int, dataset: str) -> dict[str, Any]:
    """All that the figures depend on, except what each setting has of its own."""
    named = {name: value for name, value in vars(args).items() if name not in CHANGEABLE}
    return {**named, "dataset": dataset, "seed": seed}


def run_seed(
    args: argparse.Namespace, seed: int, dataset: str, device: torch.device, folder: Path, runs: Checkpoints
) -> tuple[Table, dict[str, Any]]:
    """Run every setting with one seed; the files of a setting are written when it is done.

    Args:
        args: the command line.
        seed: of every random number.
        dataset: name of the data set.
        device: where to compute.
        folder: where to write.
        runs: checkpoints of the settings, as from :func:`prepare`.

    Returns:
        The table of all settings that are done in this folder, and the content of ``metrics.json``.

    Raises:
        FileError: a checkpoint can't be trusted.
        DataError, TrainingError, OSError: the run failed.
    """
    for n in args.num_quadrant_inputs:
        _run_setting(args, n, seed, dataset, device, folder, runs[n])
        table, metrics = _tabulate(args, seed, dataset, runs)
        save_tables(folder, table, metrics)
    return table, metrics


def _tabulate(
    args: argparse.Namespace, seed: int, dataset: str, runs: Checkpoints
) -> tuple[Table, dict[str, Any]]:
    results: Results = {}
    metrics: dict[str, Any] = {
        "unit": "nats per image, negative conditional log-likelihood",
        "dataset": dataset,
        "recipe": describe(vars(args)),
        "seed": seed,
        "arguments": {name: str(value) for name, value in _settings(args, seed, dataset).items()},
        "settings": {},
    }
    for n, checkpoint in sorted(runs.items()):
        if "outcome" not in checkpoint.parts:
            continue
        with checkpoint.believing():
            outcome = checkpoint.parts["outcome"]
            results[n] = {
                split: Evaluation.of_plain(plain) for split, plain in outcome["evaluations"].items()
            }
            metrics["splits"] = outcome["splits"]
            metrics["settings"][f"q{n}"] = outcome["summary"]
    metrics["seconds"] = sum(summary["seconds"] for summary in metrics["settings"].values())
    metrics["results"] = as_plain(results)
    return Table.of_run(results, metrics, args.diagnostics), metrics


def _run_setting(
    args: argparse.Namespace,
    n: int,
    seed: int,
    dataset: str,
    device: torch.device,
    folder: Path,
    checkpoint: Checkpoint,
) -> None:
    """Do what is not done yet, and write weights and figure."""
    name = setting_name(n)
    done = "outcome" in checkpoint.parts
    datasets, dataloaders = _load(args, n, dataset, device)
    splits = {split: {"name": data.name, "images": len(data)} for split, data in datasets.items()}
    shown = ", ".join(f"{split['name']} ({split['images']:,} images)" for split in splits.values())
    before = f"; done before, taken from {checkpoint.path}" if done else ""
    print(f"{name}: {shown}, seed {seed}, {device}{before}", flush=True)
    schedule = Schedule(
        learning_rate=args.learning_rate,
        num_epochs=args.num_epochs,
        early_stop_patience=args.early_stop_patience,
        policy=args.schedule,
        weight_decay=args.weight_decay,
        beta2=args.beta2,
        max_grad_norm=args.max_grad_norm,
    )

    seed_stage(seed, "baseline")
    baseline_net = BaselineNet().to(device)
    baseline_history = train_baseline(
        baseline_net,
        dataloaders,
        replace(schedule, num_epochs=args.baseline_epochs or args.num_epochs),
        label=f"{name}, baseline",
        stage=Stage(checkpoint, "baseline"),
    )

    seed_stage(seed, "CVAE")
    cvae_net = _make_cvae(args, baseline_net).to(device)
    if not done:
        for data in datasets.values():
            data.keep_guess(cvae_net.guess)
    cvae_history = train_cvae(
        cvae_net,
        dataloaders,
        schedule,
        elbo=args.elbo,
        label=f"{name}, CVAE",
        stage=Stage(checkpoint, "CVAE"),
    )

    evaluated = {split: data for split, data in datasets.items() if split != "train"}
    del datasets, dataloaders  # the training images and their guesses make room
    if not done:
        evaluations, seconds = _evaluate(args, seed, cvae_net, evaluated, name)
        histories = {"baseline": baseline_history.summary(), "cvae": cvae_history.summary()}
        summary = {
            **histories,
            "evaluation_seconds": seconds,
            "seconds": baseline_history.seconds + cvae_history.seconds + seconds,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        plain = {split: asdict(evaluation) for split, evaluation in evaluations.items()}
        checkpoint.save(outcome={"evaluations": plain, "splits": splits, "summary": summary})

    figure = _draw(args, seed, cvae_net, evaluated["test" if "test" in evaluated else "val"], name)
    save_setting(folder, n, {"baseline_net": baseline_net, "cvae_net": cvae_net}, figure)


def _load(
    args: argparse.Namespace, n: int, dataset: str, device: torch.device
) -> tuple[dict[str, CVAEMNIST], dict[str, DataLoader]]:
    """Read the data and compare their size with the command line."""
    datasets, dataloaders, sizes = get_data(
        n,
        args.batch_size,
        dataset=dataset,
        data_dir=args.data_dir,
        subset=args.subset,
        holdout=args.holdout,
        binarize=args.binarize,
        device=device,
    )
    if args.subset and args.subset > sizes["train"]:
        raise UsageError(f"--subset {args.subset} is more than the {sizes['train']:,} training images")
    if args.num_images > sizes["val"]:
        raise UsageError(f"--num-images {args.num_images} is more than the {sizes['val']} validation images")
    dataloaders["val"] = make_loader(datasets["val"], VALIDATION_BATCH_SIZE)
    return datasets, dataloaders


def _make_cvae(args: argparse.Namespace, baseline_net: BaselineNet) -> CVAE:
    return CVAE(
        pre_trained_baseline_net=baseline_net,
        activation=args.activation,
        generation_input=args.generation_input,
    )


def _evaluate(
    args: argparse.Namespace, seed: int, cvae_net: CVAE, evaluated: dict[str, CVAEMNIST], name: str
) -> tuple[dict[str, Evaluation], float]:
    """Return evaluations by split, and how many seconds they took."""
    seed_stage(seed, "evaluation")
    start = time.perf_counter()
    evaluations = {}
    for split, images in evaluated.items():
        print(f"{name}: estimating the CLL of {len(images):,} images, {images.name}", flush=True)
        evaluations[split] = evaluate(
            cvae_net,
            images,
            num_particles=args.num_particles,
            num_importance_samples=args.num_importance_samples,
        )
    return evaluations, time.perf_counter() - start


def _draw(args: argparse.Namespace, seed: int, cvae_net: CVAE, data: CVAEMNIST, name: str) -> Figure:
    """Draw samples for images that are the same whatever the setting."""
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: args.num_images]
    batch = data.batch(chosen)
    seed_stage(seed, "figure")
    return plot_samples(
        batch["input"],
        batch["original"].squeeze(-3),
        cvae_net.guess(batch["input"]),
        draw_samples(cvae_net, batch["input"], args.num_samples),
        title=f"{data.name}, {name} known (blue: to be predicted)",
    )
