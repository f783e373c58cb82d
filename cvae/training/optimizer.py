"""The optimizer of both nets, which Pyro's ``SVI`` can step."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn as nn
from pyro import get_param_store
from pyro.optim import PyroOptim
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from cvae.errors import TrainingError
from cvae.training import distributed
from cvae.training.settings import TrainingSettings

__all__ = ["Optimizer"]


class Optimizer(PyroOptim):
    """One fused AdamW over all parameters, with gradient clipping and a learning-rate scheduler.

    ``pyro.optim.Adam`` makes an optimizer for each tensor, which takes longer and could not clip the gradients of
    all of them together.  With several processes, gradients are summed over them before the step.

    Args:
        parameters: of the net to train, by name.
        settings: learning rate, schedule and the like.
        steps_per_epoch: number of training batches.

    Attributes:
        images_in_batch: number of images that the next step's loss is summed over.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, steps_per_epoch: int
    ) -> None:
        super().__init__(AdamW, {})
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.steps_per_epoch = steps_per_epoch
        self.max_grad_norm = settings.max_grad_norm
        self.images_in_batch = 1
        lr, betas = settings.learning_rate, (0.9, settings.beta2)
        self.adamw = AdamW(self.parameters, lr=lr, betas=betas, weight_decay=settings.weight_decay, fused=True)
        self.lr_scheduler: LRScheduler = ConstantLR(self.adamw, factor=1)
        if settings.schedule == "one-cycle":
            self.lr_scheduler = OneCycleLR(self.adamw, lr, epochs=settings.num_epochs, steps_per_epoch=steps_per_epoch)

    def __call__(self, params: Iterable[Any] = (), *args: Any, **kwargs: Any) -> None:
        """Step all parameters.

        Args:
            params: those that ``SVI`` found in model and guide.

        Raises:
            TrainingError: one of them is none of this optimizer's, as a bare ``pyro.param`` is.
        """
        own = set(map(id, self.parameters))
        for param in params:
            if id(param) not in own:
                name = get_param_store().param_name(param)
                advice = "make it an attribute of the CVAE, an nn.Parameter or a PyroParam"
                raise TrainingError(f"the parameter {name!r} would be neither trained nor saved: {advice}")
        distributed.sum_gradients(self.parameters)
        if self.max_grad_norm < math.inf:
            clip_grad_norm_(self.parameters, self.max_grad_norm * self.images_in_batch)
        self.adamw.step()
        self.adamw.zero_grad()
        self.lr_scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimizer and scheduler, with the moments by the name of their parameter."""
        adamw = self.adamw.state_dict()
        (group,) = adamw["param_groups"]
        moments = {self.names[position]: each for position, each in adamw["state"].items()}
        optimizer = {"moments": moments, **{key: value for key, value in group.items() if key != "params"}}
        return {"optimizer": optimizer, "lr_scheduler": self.lr_scheduler.state_dict()}

    def full_state_dict(self) -> dict[str, Any]:
        """Return what :meth:`state_dict` returns after a step, when each parameter has its moments."""
        state = self.state_dict()
        state["optimizer"]["moments"] = {
            name: {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            for name, parameter in zip(self.names, self.parameters)
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        group = dict(state["optimizer"], params=list(range(len(self.names))))
        moments = {self.names.index(name): each for name, each in group.pop("moments").items()}
        self.adamw.load_state_dict({"state": moments, "param_groups": [group]})
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
