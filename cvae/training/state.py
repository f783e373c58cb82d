"""The state of a training run, as a checkpoint saves it."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from cvae.training import distributed
from cvae.training.history import History
from cvae.training.optimizer import Optimizer
from cvae.training.randomness import random_state, set_random_state

__all__ = ["TrainingState"]


@dataclass
class TrainingState:
    """All that an epoch of training changes.

    Attributes:
        net: trained in place.
        optimizer: of its parameters.
        should_stop: tells from the history whether to stop before the last epoch.
        num_epochs: maximum number of epochs.
        history: losses of the epochs so far.
        best_weights: of the net after the best of them.
    """

    net: nn.Module
    optimizer: Optimizer
    should_stop: Callable[[History], bool]
    num_epochs: int
    history: History = field(default_factory=History)
    best_weights: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether training has reached its last epoch, or early stopping has ended it."""
        return len(self.history.epochs) >= self.num_epochs or self.should_stop(self.history)

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to resume, random numbers included, or once finished the result only."""
        result = {**vars(self.history), "best_weights": self.best_weights}
        if self.finished:
            return result
        random_states = distributed.gather(random_state(self._device))
        return {**result, **self.optimizer.state_dict(), "weights": self.net.state_dict(), "random": random_states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Raises:
            AttributeError, KeyError, RuntimeError, TypeError, ValueError: it is not that, or of another net.
        """
        epochs, snapshots = list(state["epochs"]), list(state["snapshots"])
        if not all(math.isfinite(loss) for epoch in epochs for loss in epoch.values()):
            raise ValueError("a loss is not finite")
        if _structure(snapshots) != _structure(snapshots[:1] * len(epochs if snapshots else [])):
            raise ValueError("it has not one snapshot for each epoch")
        self.history = History(epochs, snapshots)
        self.net.load_state_dict(state["best_weights"])
        self.best_weights = copy.deepcopy(self.net.state_dict())
        if self.finished:
            return
        self.net.load_state_dict(state["weights"])
        for name, expected in self.optimizer.full_state_dict().items():
            if _structure(state[name]) != _structure(expected):
                raise ValueError(f"its {name} has another structure")
        if state["lr_scheduler"]["last_epoch"] != len(epochs) * self.optimizer.steps_per_epoch:
            raise ValueError(f"it was not saved at the end of epoch {len(epochs)}")
        self.optimizer.load_state_dict(state)
        random_states = list(state["random"])
        if distributed.rank() < len(random_states):  # else it was saved by fewer processes
            set_random_state(self._device, random_states[distributed.rank()])

    @property
    def _device(self) -> torch.device:
        return self.optimizer.parameters[0].device


def _structure(value: Any) -> Any:
    """Return the types, keys, lengths and shapes of a value."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, dict):
        return {key: _structure(entry) for key, entry in value.items()}
    return [type(value), *map(_structure, value)] if isinstance(value, (list, tuple)) else type(value)
