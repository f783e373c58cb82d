"""One setting from data to files: train the baseline, then the CVAE, evaluate both and draw samples."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cvae.baseline import BaselineNet
from cvae.data import CVAEMNIST, get_data, make_loader
from cvae.evaluate import Evaluation, draw_samples, evaluate
from cvae.fit import Schedule
from cvae.model import CVAE
from cvae.options import UsageError
from cvae.plot import plot_samples
from cvae.recipes import describe
from cvae.report import Results, Table, as_plain, save_setting, save_tables, setting_name
from cvae.runtime import seed_stage, versions
from cvae.train import train_baseline, train_cvae

__all__ = ["run_seed"]

VALIDATION_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


def run_seed(
    args: argparse.Namespace, seed: int, dataset: str, device: torch.device, output_dir: Path
) -> tuple[Table, dict[str, Any]]:
    """Run every setting with one seed; the files of a setting are written when it is done.

    Args:
        args: the command line, as from :func:`cvae.options.parse_args`.
        seed: of every random number.
        dataset: name of the data set, not ``"auto"``.
        device: where to compute.
        output_dir: an existing folder.

    Returns:
        The table, and the content of ``metrics.json``.

    Raises:
        UsageError: the data set has fewer images than the command line asks for.
        DataError, TrainingError, OSError: the run failed.
    """
    start = time.perf_counter()
    results: Results = {}
    metrics: dict[str, Any] = {
        "unit": "nats per image, negative conditional log-likelihood",
        "dataset": dataset,
        "recipe": describe(vars(args)),
        "seed": seed,
        "versions": versions(),
        "device": str(device),
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "settings": {},
    }
    for n in args.num_quadrant_inputs:
        results[n], metrics["splits"], summary = _run_setting(args, n, seed, dataset, device, output_dir)
        metrics["settings"][f"q{n}"] = summary
        metrics |= {"seconds": time.perf_counter() - start, "results": as_plain(results)}
        table = Table.of_run(results, metrics, args.diagnostics)
        save_tables(output_dir, table, metrics)
    return table, metrics


def _run_setting(
    args: argparse.Namespace, n: int, seed: int, dataset: str, device: torch.device, output_dir: Path
) -> tuple[dict[str, Evaluation], dict[str, Any], dict[str, Any]]:
    """Return evaluations by split, what the splits are, and how training went."""
    name = setting_name(n)
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
    if args.num_images > sizes["val"]:
        raise UsageError(f"--num-images {args.num_images} is more than the {sizes['val']} validation images")
    splits = {split: {"name": data.name, "images": len(data)} for split, data in datasets.items()}
    shown = ", ".join(f"{split['name']} ({split['images']:,} images)" for split in splits.values())
    print(f"{name}: {shown}, seed {seed}, {device}", flush=True)
    dataloaders["val"] = make_loader(datasets["val"], VALIDATION_BATCH_SIZE)
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
    baseline_schedule = replace(schedule, num_epochs=args.baseline_epochs or args.num_epochs)
    baseline_history = train_baseline(baseline_net, dataloaders, baseline_schedule, label=f"{name}, baseline")

    seed_stage(seed, "CVAE")
    cvae_net = CVAE(
        pre_trained_baseline_net=baseline_net,
        activation=args.activation,
        generation_input=args.generation_input,
    ).to(device)
    for data in datasets.values():
        data.keep_guess(cvae_net.guess)
    cvae_history = train_cvae(cvae_net, dataloaders, schedule, elbo=args.elbo, label=f"{name}, CVAE")

    evaluated: dict[str, CVAEMNIST] = {split: data for split, data in datasets.items() if split != "train"}
    del datasets, dataloaders, data  # the training images and their guesses make room
    evaluations = {}
    seed_stage(seed, "evaluation")
    start = time.perf_counter()
    for split, images in evaluated.items():
        print(f"{name}: estimating the CLL of {len(images):,} images, {images.name}", flush=True)
        evaluations[split] = evaluate(
            cvae_net,
            images,
            num_particles=args.num_particles,
            num_importance_samples=args.num_importance_samples,
        )
    summary = {
        "baseline": baseline_history.summary(),
        "cvae": cvae_history.summary(),
        "evaluation_seconds": time.perf_counter() - start,
    }

    last = evaluated["test" if "test" in evaluated else "val"]
    chosen = torch.randperm(len(last), generator=torch.Generator().manual_seed(seed))[: args.num_images]
    batch = last.batch(chosen)
    seed_stage(seed, "figure")
    figure = plot_samples(
        batch["input"],
        batch["original"].squeeze(-3),
        batch["guess"],
        draw_samples(cvae_net, batch["input"], args.num_samples),
        title=f"{last.name}, {name} known (blue: to be predicted)",
    )
    save_setting(output_dir, n, {"baseline_net": baseline_net, "cvae_net": cvae_net}, figure)
    return evaluations, splits, summary
