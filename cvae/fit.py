"""One training loop with early stopping, whatever the loss, that can be interrupted and go on."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from cvae import distributed
from cvae.checkpoint import Stage
from cvae.progress import History, Progress
from cvae.reporter import Reporter
from cvae.schedule import Schedule

__all__ = ["TrainingError", "fit"]


class TrainingError(RuntimeError):
    """Training can't go on."""


def fit(
    net: nn.Module,
    loss: Callable[[dict[str, Tensor]], Tensor],
    validate: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    dataloaders: dict[str, DataLoader],
    schedule: Schedule,
    reporter: Reporter,
    stage: Stage | None = None,
    snapshot: Callable[[int], Tensor] | None = None,
) -> History:
    """Minimise a loss, and leave a net with the weights of the best epoch.

    Args:
        net: all its parameters are trained.
        loss: makes of a batch a scalar to descend on, summed over its images.
        validate: makes of a batch sums over its images by name, among them ``val``, which decides.
        dataloaders: keyed ``"train"`` and ``"val"``.
        schedule: how the parameters are moved, and for how long.
        reporter: says how it goes.
        stage: where each epoch is put away, and where a run that was interrupted is taken up.
        snapshot: makes of the number of an epoch, after it, what the history is to keep of the net.

    Raises:
        TrainingError: a loss is not finite.
        FileError: what is to be taken up does not fit.
        OSError: an epoch can't be put away.
    """
    progress = Progress(net, schedule, len(dataloaders["train"]))
    parallel_loss = distributed.parallel(net, loss)
    if stage is not None:
        stage.restore(progress)
    reporter.begin(progress.history, progress.finished)
    while not progress.finished:
        start, epoch = time.perf_counter(), len(progress.history.epochs) + 1
        title = reporter.title(epoch, schedule.num_epochs)
        if isinstance(dataloaders["train"].sampler, DistributedSampler):
            dataloaders["train"].sampler.set_epoch(epoch)
        losses = {"train": _train_epoch(progress, parallel_loss, dataloaders["train"], reporter, title)}
        losses |= _validate_epoch(net, validate, dataloaders["val"])
        _check_finite(losses["val"], "validation", title)
        losses["seconds"] = time.perf_counter() - start
        # one process decides for all when to stop
        progress.note(distributed.share(losses), snapshot(epoch) if snapshot else None)
        if stage is not None:
            stage.keep(progress)
        reporter.epoch(progress.history, schedule.num_epochs)
    reporter.end(progress.history, schedule.num_epochs)
    net.load_state_dict(progress.best_weights)
    return progress.history


def _train_epoch(
    progress: Progress, loss: Callable[[Any], Tensor], loader: DataLoader, reporter: Reporter, title: str
) -> float:
    """Return the mean over all processes' images of the loss, as it was before each step."""
    progress.net.train()
    totals, processes = {"loss": 0.0, "images": 0.0}, distributed.world_size()
    for batch in reporter.batches(loader, title):
        batch_loss = loss(batch)
        batch_loss.backward()
        progress.step(len(batch["input"]) * processes)
        _check_finite(batch_loss.item(), "training", title)
        totals["loss"] += batch_loss.item() / processes
        totals["images"] += len(batch["input"])
        reporter.batch(totals["loss"] / totals["images"], progress.history)
    totals = distributed.sums(totals)
    return totals["loss"] / totals["images"]


@torch.no_grad()
def _validate_epoch(
    net: nn.Module, validate: Callable[[Any], dict[str, Tensor]], loader: DataLoader
) -> dict[str, float]:
    """Return means over all processes' images."""
    net.eval()
    totals = {"images": 0.0}
    for batch in loader:
        for name, loss in validate(batch).items():
            totals[name] = totals.get(name, 0.0) + loss.item()
        totals["images"] += len(batch["input"])
    totals = distributed.sums(totals)
    images = totals.pop("images")
    return {name: total / images for name, total in totals.items()}


def _check_finite(loss: float, split: str, title: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"{title}: the {split} loss is {loss}: try a smaller --learning-rate")
