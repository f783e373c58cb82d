"""What a training run went through, and all that it takes to go on with it."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from cvae import distributed
from cvae.runtime import random_state, set_random_state
from cvae.schedule import Schedule

__all__ = ["History", "Progress"]


@dataclass
class History:
    """What a training run went through; losses in nats per image, lower is better.

    Attributes:
        epochs: a dict for each epoch: ``train`` and ``val`` losses, ``seconds``, and for the CVAE the two
            terms of ``val``, ``reconstruction`` and ``kl``.
        snapshots: what the net predicted after each epoch, where that was asked for.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    snapshots: list[Tensor] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number, from 1, of the first epoch with the lowest validation loss; 0 before there is one."""
        losses = [epoch["val"] for epoch in self.epochs]
        return 1 + losses.index(min(losses)) if losses else 0

    @property
    def best_loss(self) -> float:
        """The lowest validation loss, nats per image."""
        return min(epoch["val"] for epoch in self.epochs)

    @property
    def epochs_without_improvement(self) -> int:
        """How many epochs have passed since the best one: what early stopping waits for."""
        return len(self.epochs) - self.best_epoch

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(epoch["seconds"] for epoch in self.epochs)

    def summary(self) -> dict[str, Any]:
        """Return all but the snapshots as plain values."""
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

    def note(self, losses: dict[str, float], snapshot: Tensor | None = None) -> None:
        """Take note of one more epoch, and of the weights if it is the best one yet."""
        self.history.epochs.append(losses)
        if snapshot is not None:
            self.history.snapshots.append(snapshot)
        if self.history.epochs_without_improvement == 0:
            self.best_weights = copy.deepcopy(self.net.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on, random numbers included, or once finished the outcome only."""
        outcome = {
            "epochs": self.history.epochs,
            "snapshots": self.history.snapshots,
            "best_weights": self.best_weights,
        }
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
        snapshots = list(stored["snapshots"])
        if not _same_form(snapshots, snapshots[:1] * len(epochs if snapshots else [])):
            raise ValueError("it has not one snapshot for each epoch")
        self.history = History(epochs, snapshots)
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
