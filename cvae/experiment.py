"""From the command line to files: for each setting train the baseline, then the CVAE, evaluate and draw."""

import argparse
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from cvae import distributed
from cvae.ambiguity import choose_inputs
from cvae.baseline import BaselineNet
from cvae.checkpoint import Checkpoint, Stage
from cvae.data import CVAEMNIST, get_data, make_loader, make_shared_loader, part
from cvae.evaluate import Evaluation, evaluate
from cvae.forecast import Forecast
from cvae.model import CVAE
from cvae.options import UsageError
from cvae.output import check_room, check_settings, checkpoint_path, clear
from cvae.pictures import Pictures
from cvae.recipes import describe
from cvae.report import (
    Results,
    Table,
    as_plain,
    save_tables,
    save_weights,
    setting_name,
)
from cvae.reporter import Reporter
from cvae.runtime import seed_stage, versions
from cvae.schedule import Schedule
from cvae.snapshots import Snapshots
from cvae.train import train_baseline, train_cvae

__all__ = ["Run", "prepare", "run_seed"]

logger = logging.getLogger(__name__)

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
    "animate",
    "quiet",
    "debug",
)
NUM_AMBIGUOUS = 4  # inputs of the diversity figure
NUM_ANIMATED = 3  # inputs of the animation: a clear one and two ambiguous ones
FRAMES_PER_EPOCH = 3
ANIMATED_FROM = 30_000  # training images: so many make frames cost less than 3 % of an epoch on a CPU
VALIDATION_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


@dataclass(frozen=True)
class Run:
    """All settings with one seed.

    Attributes:
        args: the command line, as from :func:`cvae.options.parse_args`.
        seed: of every random number.
        dataset: name of the data set, not ``"auto"``.
        device: where to compute.
        folder: where to write.
        settings: what the figures depend on, except what each setting has of its own.
        checkpoints: by number of known quadrants, of all settings that were begun or are to be.
        forecast: of all runs of the command.
    """

    args: argparse.Namespace
    seed: int
    dataset: str
    device: torch.device
    folder: Path
    settings: dict[str, Any]
    checkpoints: dict[int, Checkpoint]
    forecast: Forecast


def prepare(
    args: argparse.Namespace, dataset: str, device: torch.device, folders: dict[int, Path]
) -> list[Run]:
    """Check all that can be checked before the work, and find what is done of it.

    Args:
        args: the command line.
        dataset: name of the data set, not ``"auto"``.
        device: where to compute.
        folders: where to write, by seed; claimed by the main process.

    Returns:
        A run for each seed.

    Raises:
        DataError: the data set can't be had.
        FileError: a checkpoint can't be trusted.
        OSError: there is too little room on the disk.
        UsageError: the data set has fewer images than the command line asks for, or the folders hold what
            this run must not overwrite.
    """
    with distributed.local_main_first():
        datasets, _ = _load(args, args.num_quadrant_inputs[0], dataset, torch.device("cpu"), args.seeds[0])
    named = {name: value for name, value in vars(args).items() if name not in CHANGEABLE}
    named |= {"dataset": dataset, "images": [data.fingerprint() for data in datasets.values()]}
    settings_to_run = len(folders) * len(args.num_quadrant_inputs)
    forecast = Forecast(
        {
            "baseline": settings_to_run * (args.baseline_epochs or args.num_epochs),
            "CVAE": settings_to_run * args.num_epochs,
            "evaluation": settings_to_run,
        }
    )
    runs = []
    if distributed.is_main():
        if args.overwrite:
            clear(args.output_dir)
        for seed, folder in folders.items():
            settings = {**named, "seed": seed}
            found = check_settings(folder, settings)
            for n in args.num_quadrant_inputs:
                found.setdefault(n, Checkpoint(checkpoint_path(folder, n), settings))
            runs.append(Run(args, seed, dataset, device, folder, settings, found, forecast))
        with torch.device("meta"):
            nets = _make_cvae(args, datasets["train"])
        check_room(
            args.output_dir,
            unfinished=sum("outcome" not in c.parts for run in runs for c in run.checkpoints.values()),
            bytes_of_nets=sum(parameter.nbytes for parameter in nets.parameters()),
        )
    return [replace(run, device=device, forecast=forecast) for run in distributed.share(runs)]


def run_seed(run: Run) -> tuple[Table, dict[str, Any]]:
    """Run every setting with one seed; the files of a setting are written when it is done.

    Returns:
        The table of all settings that are done in this folder, and the content of ``metrics.json``.

    Raises:
        FileError: a checkpoint can't be trusted.
        DataError, TrainingError, OSError: the run failed.
    """
    for n in run.args.num_quadrant_inputs:
        _run_setting(run, n)
        table, metrics = _tabulate(run)
        if distributed.is_main():
            save_tables(run.folder, table, metrics)
    return table, metrics


def _tabulate(run: Run) -> tuple[Table, dict[str, Any]]:
    results: Results = {}
    metrics: dict[str, Any] = {
        "unit": "nats per image, negative conditional log-likelihood",
        "dataset": run.dataset,
        "recipe": describe(vars(run.args)),
        "seed": run.seed,
        "arguments": {name: str(value) for name, value in run.settings.items()},
        "settings": {},
    }
    for n, checkpoint in sorted(run.checkpoints.items()):
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
    return Table.of_run(results, metrics, run.args.diagnostics), metrics


def _run_setting(run: Run, n: int) -> None:
    """Do what is not done yet, and write weights and figures."""
    args, name, checkpoint = run.args, setting_name(n), run.checkpoints[n]
    done = "outcome" in checkpoint.parts
    datasets, dataloaders = _load(args, n, run.dataset, run.device, run.seed)
    splits = {split: {"name": data.name, "images": len(data)} for split, data in datasets.items()}
    described = ", ".join(f"{split['name']} ({split['images']:,} images)" for split in splits.values())
    where = f"{run.device}" + (f" x {distributed.world_size()}" if distributed.world_size() > 1 else "")
    before = f"; done before, taken from {checkpoint.path}" if done else ""
    logger.info("%s: %s, seed %d, %s%s", name, described, run.seed, where, before)
    schedule = Schedule(
        learning_rate=args.learning_rate,
        num_epochs=args.num_epochs,
        early_stop_patience=args.early_stop_patience,
        policy=args.schedule,
        weight_decay=args.weight_decay,
        beta2=args.beta2,
        max_grad_norm=args.max_grad_norm,
    )

    seed_stage(run.seed, "baseline")
    baseline_net = _make_baseline(datasets["train"]).to(run.device)
    baseline_history = train_baseline(
        baseline_net,
        dataloaders,
        replace(schedule, num_epochs=args.baseline_epochs or args.num_epochs, max_grad_norm=math.inf),
        reporter=Reporter(f"{name}, baseline", "baseline", run.forecast),
        stage=Stage(checkpoint, "baseline"),
    )

    seed_stage(run.seed, "CVAE")
    cvae_net = _make_cvae(args, datasets["train"], baseline_net).to(run.device)
    if distributed.rank():  # the same nets, but latent samples of its own
        seed_stage(run.seed, f"CVAE, process {distributed.rank()}")
    evaluated = {split: data for split, data in datasets.items() if split != "train"}
    last_split = "test" if "test" in evaluated else "val"
    shown = evaluated[last_split]
    chosen = choose_inputs(datasets["train"], shown, NUM_AMBIGUOUS)
    if not done:
        for data in datasets.values():
            data.keep_guess(cvae_net.guess)
    snapshots = Snapshots(cvae_net, shown.batch(chosen[:NUM_ANIMATED])["input"], FRAMES_PER_EPOCH, run.seed)
    cvae_history = train_cvae(
        cvae_net,
        dataloaders,
        schedule,
        elbo=args.elbo,
        reporter=Reporter(f"{name}, CVAE", "CVAE", run.forecast),
        stage=Stage(checkpoint, "CVAE"),
        snapshot=snapshots,
    )

    with checkpoint.believing():
        if {snapshot.shape for snapshot in cvae_history.snapshots} != {snapshots.shape}:
            raise ValueError("its snapshots are of other images")

    animated = args.animate
    if animated is None:
        animated = len(datasets["train"]) >= ANIMATED_FROM
    del datasets, dataloaders  # the training images and their guesses make room
    if not done:
        evaluations, seconds = _evaluate(run, cvae_net, evaluated, name)
        summary = {
            "baseline": baseline_history.summary(),
            "cvae": cvae_history.summary(),
            "evaluation_seconds": seconds,
            "seconds": baseline_history.seconds + cvae_history.seconds + seconds,
            "device": run.device.type,
            "processes": distributed.world_size(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        plain = {split: asdict(evaluation) for split, evaluation in evaluations.items()}
        checkpoint.save(outcome={"evaluations": plain, "splits": splits, "summary": summary})

        run.forecast.took("evaluation", seconds)
    else:
        run.forecast.drop("evaluation", 1)

    if distributed.is_main():
        pictures = Pictures(args, n, run.seed, shown, chosen, described)
        save_weights(run.folder, n, {"baseline_net": baseline_net, "cvae_net": cvae_net})
        with checkpoint.believing():
            evaluation = Evaluation.of_plain(checkpoint.parts["outcome"]["evaluations"][last_split])
        histories = {"baseline": baseline_history, "CVAE": cvae_history}
        pictures.save(run.folder, cvae_net, evaluation, histories, run.dataset)
        if n == args.num_quadrant_inputs[0]:  # they are the same for every setting
            pictures.save_common(run.folder)
        if animated:
            pictures.save_animation(run.folder, cvae_history)


def _load(
    args: argparse.Namespace, n: int, dataset: str, device: torch.device, seed: int
) -> tuple[dict[str, CVAEMNIST], dict[str, DataLoader]]:
    """Read the data and compare their size with the command line."""
    datasets, dataloaders, sizes = get_data(
        n,
        args.batch_size,
        dataset=dataset,
        data_dir=args.data_dir,
        val_fraction=args.val_fraction,
        subset=args.subset,
        holdout=args.holdout,
        binarize=args.binarize,
        device=device,
    )
    if args.subset and args.subset > sizes["train"]:
        raise UsageError(f"--subset {args.subset} is more than the {sizes['train']:,} training images")
    if args.num_images > sizes["val"]:
        raise UsageError(f"--num-images {args.num_images} is more than the {sizes['val']} validation images")
    if distributed.world_size() > 1:
        dataloaders["train"] = make_shared_loader(datasets["train"], args.batch_size, seed)
    share = part(datasets["val"], distributed.rank(), distributed.world_size())
    dataloaders["val"] = make_loader(share, VALIDATION_BATCH_SIZE)
    return datasets, dataloaders


def _make_baseline(data: CVAEMNIST) -> BaselineNet:
    return BaselineNet(num_pixels=data.images[0].numel())


def _make_cvae(args: argparse.Namespace, data: CVAEMNIST, baseline_net: BaselineNet | None = None) -> CVAE:
    return CVAE(
        pre_trained_baseline_net=baseline_net or _make_baseline(data),
        activation=args.activation,
        generation_input=args.generation_input,
        num_pixels=data.images[0].numel(),
    )


def _evaluate(
    run: Run, cvae_net: CVAE, evaluated: dict[str, CVAEMNIST], name: str
) -> tuple[dict[str, Evaluation], float]:
    """Return evaluations by split, and how many seconds they took."""
    seed_stage(run.seed, "evaluation" + (f", process {distributed.rank()}" if distributed.rank() else ""))
    start = time.perf_counter()
    evaluations = {}
    for split, images in evaluated.items():
        logger.info("%s: estimating the CLL of %s images, %s", name, f"{len(images):,}", images.name)
        evaluations[split] = evaluate(
            cvae_net,
            images,
            num_particles=run.args.num_particles,
            num_importance_samples=run.args.num_importance_samples,
        )
    return evaluations, time.perf_counter() - start
