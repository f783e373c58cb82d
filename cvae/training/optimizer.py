"""The optimizer of both nets, which Pyro's ``SVI`` can step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn as nn
from pyro.optim import PyroOptim
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from cvae.training import distributed
from cvae.training.settings import TrainingSettings

__all__ = ["Optimizer"]


class Optimizer(PyroOptim):
    """One fused AdamW over all parameters, with gradient clipping and a learning-rate scheduler.

    ``pyro.optim.Adam`` makes an optimizer for each tensor, which takes longer and could not clip the gradients of
    all of them together.  With several processes, gradients are summed over them before the step.

    Args:
        parameters: of the nets to train.
        settings: learning rate, schedule and the like.
        steps_per_epoch: number of training batches.

    Attributes:
        images_in_batch: number of images that the next step's loss is summed over.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: TrainingSettings, steps_per_epoch: int) -> None:
        super().__init__(AdamW, {})
        self.parameters = list(parameters)
        self.steps_per_epoch = steps_per_epoch
        self.max_grad_norm = settings.max_grad_norm
        self.images_in_batch = 1
        lr, betas = settings.learning_rate, (0.9, settings.beta2)
        self.adamw = AdamW(self.parameters, lr=lr, betas=betas, weight_decay=settings.weight_decay, fused=True)
        self.lr_scheduler: LRScheduler = ConstantLR(self.adamw, factor=1)
        if settings.schedule == "one-cycle":
            self.lr_scheduler = OneCycleLR(self.adamw, lr, epochs=settings.num_epochs, steps_per_epoch=steps_per_epoch)

    def __call__(self, params: Iterable[Any] = (), *args: Any, **kwargs: Any) -> None:
        """Step all parameters; ``SVI`` passes those that it found in model and guide, which are the same."""
        distributed.sum_gradients(self.parameters)
        if self.max_grad_norm < math.inf:
            clip_grad_norm_(self.parameters, self.max_grad_norm * self.images_in_batch)
        self.adamw.step()
        self.adamw.zero_grad()
        self.lr_scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimizer and scheduler."""
        return {"optimizer": self.adamw.state_dict(), "lr_scheduler": self.lr_scheduler.state_dict()}

    def full_state_dict(self) -> dict[str, Any]:
        """Return what :meth:`state_dict` returns after a step, when each parameter has its moments."""
        state = self.state_dict()
        state["optimizer"]["state"] = {
            index: {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            for index, parameter in enumerate(self.parameters)
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.adamw.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
