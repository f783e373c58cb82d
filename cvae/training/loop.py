"""The training loop of both nets, which can be interrupted and resumed."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cvae.errors import TrainingError
from cvae.storage.checkpoint import Checkpoint
from cvae.training import distributed
from cvae.training.history import History
from cvae.training.progress import Progress
from cvae.training.state import TrainingState

__all__ = ["fit"]

Batch = dict[str, Tensor]

READ_EVERY = 25  # steps: to read a loss, the CPU has to wait for the GPU


def fit(
    name: str,
    state: TrainingState,
    step: Callable[[Batch], Tensor | float],
    validate: Callable[[Batch], dict[str, Tensor | float]],
    dataloaders: dict[str, DataLoader],
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    snapshot: Callable[[int], Tensor] | None = None,
) -> History:
    """Train a net until its last epoch or early stopping, and leave it with its best weights.

    Args:
        name: of the net, in the checkpoint and in messages.
        state: net, optimizer and early stopping, which an epoch changes.
        step: takes a gradient step on a batch, and returns the loss before it, summed over its images, as a number or
            as a tensor, which is read later.
        validate: returns sums over the images of a batch by name, among them ``val``, which decides.

    Other arguments, and the errors, are those of :func:`cvae.train.train_cvae`.
    """
    if checkpoint is not None:
        checkpoint.restore(name, state.load_state_dict)
    history = state.history
    progress = progress or Progress()
    progress.begin(name, history, state.num_epochs, state.finished)
    while not state.finished:
        start, epoch = time.perf_counter(), len(history.epochs) + 1
        distributed.set_epoch(dataloaders["train"], epoch)
        losses = _train_epoch(state, step, dataloaders["train"], progress)
        losses |= _validate_epoch(state, validate, dataloaders["val"])
        _check_finite(losses["val"], "validation", progress)
        losses["seconds"] = time.perf_counter() - start
        history.epochs.append(distributed.broadcast(losses))  # one process decides for all when to stop
        if snapshot is not None:
            history.snapshots.append(snapshot(epoch))
        if history.best_epoch == epoch:
            state.best_weights = copy.deepcopy(state.net.state_dict())
        saved = state.state_dict()
        if checkpoint is not None and distributed.is_main():
            checkpoint.save(**{name: saved})
        progress.end_epoch()
    progress.drop(name, state.num_epochs - len(history.epochs))  # epochs that early stopping has saved
    state.net.load_state_dict(state.best_weights)
    return history


def _train_epoch(
    state: TrainingState, step: Callable[[Batch], Tensor | float], loader: DataLoader, progress: Progress
) -> dict[str, float]:
    """Return the mean loss, as it was before each step."""
    state.net.train()
    totals, processes = {"train": 0.0, "images": 0.0}, distributed.world_size()
    unread: list[Tensor | float] = []

    def read_losses() -> None:
        for loss in map(float, unread):
            _check_finite(loss, "training", progress)
            totals["train"] += loss
        unread.clear()
        progress.show_loss(totals["train"] / totals["images"])

    for batch in progress.batches(loader):
        images = len(batch["input"])
        state.optimizer.images_in_batch = images * processes
        unread.append(step(batch))
        totals["images"] += images
        if len(unread) == READ_EVERY:
            read_losses()
    read_losses()
    return _means(totals)


@torch.no_grad()
def _validate_epoch(
    state: TrainingState, validate: Callable[[Batch], dict[str, Tensor | float]], loader: DataLoader
) -> dict[str, float]:
    state.net.eval()
    totals: dict[str, float] = defaultdict(float)
    for losses, images in [(validate(batch), len(batch["input"])) for batch in loader]:
        for name, loss in losses.items():
            totals[name] += float(loss)
        totals["images"] += images
    return _means(totals)


def _means(totals: dict[str, float]) -> dict[str, float]:
    """Divide sums over images by their number, for all processes together."""
    gathered = distributed.gather(totals)
    sums = {name: sum(each[name] for each in gathered) for name in totals}
    images = sums.pop("images")
    return {name: total / images for name, total in sums.items()}


def _check_finite(loss: float, split: str, progress: Progress) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"{progress.title}: the {split} loss is {loss}: try a smaller --learning-rate")
