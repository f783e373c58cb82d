"""One training loop with early stopping, whatever the loss, that can be interrupted and go on."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

from cvae import distributed
from cvae.checkpoint import Stage
from cvae.runtime import random_state, set_random_state
from cvae.schedule import Schedule

__all__ = ["History", "Progress", "TrainingError", "fit"]


class TrainingError(RuntimeError):
    """Training can't go on."""


@dataclass
class History:
    """What a training run went through; losses in nats per image, lower is better.

    Attributes:
        epochs: a dict for each epoch: ``train`` and ``val`` losses, ``seconds``, and for the CVAE the two
            terms of ``val``, ``reconstruction`` and ``kl``.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number, from 1, of the first epoch with the lowest validation loss; 0 before there is one."""
        losses = [epoch["val"] for epoch in self.epochs]
        return 1 + losses.index(min(losses)) if losses else 0

    @property
    def epochs_without_improvement(self) -> int:
        """How many epochs have passed since the best one: what early stopping waits for."""
        return len(self.epochs) - self.best_epoch

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    def summary(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "epochs_run": len(self.epochs),
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "epochs": self.epochs,
        }


class Progress:
    """All that an epoch of training changes.

    Args:
        net: all its parameters are trained.
        schedule: how they are moved, and for how long.
        steps_per_epoch: batches of training images.
    """

    def __init__(self, net: nn.Module, schedule: Schedule, steps_per_epoch: int) -> None:
        self.net = net
        self.schedule = schedule
        self.steps_per_epoch = steps_per_epoch
        self.parameters = list(net.parameters())
        self.optimizer, self.rate = schedule.start(self.parameters, steps_per_epoch)
        self.history = History()
        self.best_weights: dict[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Whether training has come to its last epoch, or early stopping has ended it."""
        patience = self.schedule.early_stop_patience
        return (
            len(self.history.epochs) >= self.schedule.num_epochs
            or self.history.epochs_without_improvement >= patience
        )

    def step(self, images: int) -> None:
        """Move the parameters along the gradients of a loss that is summed over so many images."""
        if self.schedule.max_grad_norm < math.inf:
            clip_grad_norm_(self.parameters, self.schedule.max_grad_norm * images)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.rate.step()

    def note(self, losses: dict[str, float]) -> None:
        """Take note of one more epoch, and of the weights if it is the best one yet."""
        self.history.epochs.append(losses)
        if self.history.epochs_without_improvement == 0:
            self.best_weights = copy.deepcopy(self.net.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on, random numbers included, or once finished the outcome only."""
        outcome = {"epochs": self.history.epochs, "best_weights": self.best_weights}
        if self.finished:
            return outcome
        return outcome | {
            "weights": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "random": distributed.gather(random_state(self._device)),
        }

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned.

        Raises:
            AttributeError, KeyError, RuntimeError, TypeError, ValueError: it is not that, or of another net.
        """
        epochs = [{str(name): float(value) for name, value in epoch.items()} for epoch in stored["epochs"]]
        if not all(math.isfinite(value) for epoch in epochs for value in epoch.values()):
            raise ValueError("a loss is not finite")
        self.history = History(epochs)
        self.net.load_state_dict(stored["best_weights"])
        self.best_weights = copy.deepcopy(self.net.state_dict())
        if self.finished:
            return
        self.net.load_state_dict(stored["weights"])
        if stored["rate"]["last_epoch"] != len(epochs) * self.steps_per_epoch:
            raise ValueError(f"it does not stand at the end of epoch {len(epochs)}")
        moments = {
            place: {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            for place, parameter in enumerate(self.parameters)
        }
        for name, fresh in (
            ("optimizer", {**self.optimizer.state_dict(), "state": moments}),
            ("rate", self.rate.state_dict()),
        ):
            if not _same_form(stored[name], fresh):
                raise ValueError(f"its {name} has another form")
        self.optimizer.load_state_dict(stored["optimizer"])
        self.rate.load_state_dict(stored["rate"])
        states = list(stored["random"])
        if distributed.rank() < len(states):  # else it was left by fewer processes
            set_random_state(self._device, states[distributed.rank()])

    @property
    def _device(self) -> torch.device:
        return self.parameters[0].device


def _same_form(value: Any, model: Any) -> bool:
    """Tell whether a value has the types, keys, lengths and shapes of another one."""
    if isinstance(model, Tensor):
        return isinstance(value, Tensor) and (value.shape, value.dtype) == (model.shape, model.dtype)
    if isinstance(model, dict):
        return (
            isinstance(value, dict)
            and value.keys() == model.keys()
            and all(_same_form(value[key], model[key]) for key in model)
        )
    if isinstance(model, (list, tuple)):
        return (
            isinstance(value, type(model)) and len(value) == len(model) and all(map(_same_form, value, model))
        )
    return type(value) is type(model)


def fit(
    net: nn.Module,
    loss: Callable[[dict[str, Tensor]], Tensor],
    validate: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    dataloaders: dict[str, DataLoader],
    schedule: Schedule,
    label: str,
    stage: Stage | None = None,
) -> History:
    """Minimise a loss, and leave a net with the weights of the best epoch.

    Args:
        net: all its parameters are trained.
        loss: makes of a batch a scalar to descend on, summed over its images.
        validate: makes of a batch sums over its images by name, among them ``val``, which decides.
        dataloaders: keyed ``"train"`` and ``"val"``.
        schedule: how the parameters are moved, and for how long.
        label: how progress lines begin.
        stage: where each epoch is put away, and where a run that was interrupted is taken up.

    Raises:
        TrainingError: a loss is not finite.
        FileError: what is to be taken up does not fit.
        OSError: an epoch can't be put away.
    """
    progress = Progress(net, schedule, len(dataloaders["train"]))
    parallel_loss = distributed.parallel(net, loss)
    if stage is not None and stage.restore(progress) and not progress.finished:
        print(f"{label}: goes on after epoch {len(progress.history.epochs)}", flush=True)
    while not progress.finished:
        start, epoch = time.perf_counter(), len(progress.history.epochs) + 1
        title = f"{label}, epoch {epoch}/{schedule.num_epochs}"
        if isinstance(dataloaders["train"].sampler, DistributedSampler):
            dataloaders["train"].sampler.set_epoch(epoch)
        losses = {"train": _train_epoch(progress, parallel_loss, dataloaders["train"], title)}
        losses |= _validate_epoch(net, validate, dataloaders["val"])
        _check_finite(losses["val"], "validation", title)
        losses["seconds"] = time.perf_counter() - start
        progress.note(distributed.share(losses))  # one process decides for all when to stop
        if stage is not None:
            stage.keep(progress)
        print(_progress_line(title, losses), flush=True)
    net.load_state_dict(progress.best_weights)
    return progress.history


def _train_epoch(progress: Progress, loss: Callable[[Any], Tensor], loader: DataLoader, title: str) -> float:
    """Return the mean over all processes' images of the loss, as it was before each step."""
    progress.net.train()
    totals, processes = {"loss": 0.0, "images": 0.0}, distributed.world_size()
    for batch in tqdm(loader, title, leave=False, disable=None):
        batch_loss = loss(batch)
        batch_loss.backward()
        progress.step(len(batch["input"]) * processes)
        _check_finite(batch_loss.item(), "training", title)
        totals["loss"] += batch_loss.item() / processes
        totals["images"] += len(batch["input"])
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


def _progress_line(title: str, losses: dict[str, float]) -> str:
    terms = ""
    if "kl" in losses:
        terms = f" (reconstruction {losses['reconstruction']:.2f} + KL {losses['kl']:.2f})"
    return (
        f"{title}: training {losses['train']:.2f}, validation {losses['val']:.2f}{terms} nats/image, "
        f"{losses['seconds']:.1f} s"
    )
