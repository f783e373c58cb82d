"""The optimizer of both nets, which Pyro's ``SVI`` can step."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch.nn as nn
from pyro import get_param_store
from pyro.optim import PyroOptim
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from cvae import distributed
from cvae.config import TrainingConfig
from cvae.files import CVAEError

__all__ = ["Optimizer", "TrainingError"]


class TrainingError(CVAEError, RuntimeError):
    """Training cannot continue."""


class Optimizer(PyroOptim):
    """One fused AdamW over all parameters of a net, with clipping and a learning-rate scheduler.

    ``pyro.optim.Adam`` makes an optimizer for each tensor, which takes longer and could not clip
    the gradients of all of them together.  Frozen parameters are left out.  Weight decay is of
    matrices alone, not of biases, scales and other parameters that need not be small.

    Args:
        net: whose parameters to step.
        training: learning rate, schedule and the like.
        steps_per_epoch: number of training batches.

    Attributes:
        batch_size: number of images that the next step's loss is summed over.
    """

    def __init__(self, net: nn.Module, training: TrainingConfig, steps_per_epoch: int) -> None:
        super().__init__(AdamW, {})
        named = {name: p for name, p in net.named_parameters() if p.requires_grad}
        matrices = {name: p for name, p in named.items() if p.ndim > 1}
        others = {name: p for name, p in named.items() if p.ndim < 2}
        self.names = [*matrices, *others]
        self.parameters = [*matrices.values(), *others.values()]
        self.max_grad_norm, self.batch_size = training.max_grad_norm, 1
        groups = [
            {"params": list(matrices.values()), "weight_decay": training.weight_decay},
            {"params": list(others.values()), "weight_decay": 0.0},
        ]
        lr, betas = training.learning_rate, (0.9, training.beta2)
        self.adamw = AdamW(groups, lr=lr, betas=betas, fused=True)
        self.scheduler: LRScheduler = ConstantLR(self.adamw, factor=1)
        if training.schedule == "one-cycle":
            steps = training.epochs(steps_per_epoch) * steps_per_epoch
            # With beta1 at 0.85 near the peak, PyTorch's default, the CVAE's training loss jumps.
            self.scheduler = OneCycleLR(self.adamw, lr, total_steps=steps, cycle_momentum=False)

    def __call__(self, params: Iterable[Any] = (), *args: Any, **kwargs: Any) -> None:
        """Step all parameters by their gradients, which are summed over all processes.

        Args:
            params: the parameters that ``SVI`` found in model and guide.

        Raises:
            TrainingError: one of them is not the net's, as a bare ``pyro.param`` is.
        """
        own = set(map(id, self.parameters))
        for param in params:
            if id(param) not in own:
                name = get_param_store().param_name(param)
                advice = "make it an attribute of the CVAE, an nn.Parameter or a PyroParam"
                raise TrainingError(f"{name!r} would be neither trained nor saved: {advice}")
        distributed.sum_gradients(self.parameters)
        if self.max_grad_norm < math.inf:
            clip_grad_norm_(self.parameters, self.max_grad_norm * self.batch_size)
        self.adamw.step()
        self.adamw.zero_grad()
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of AdamW, by the names of its parameters, and of the scheduler."""
        adamw = self.adamw.state_dict()
        moments = {self.names[position]: state for position, state in adamw["state"].items()}
        groups, scheduler = adamw["param_groups"], self.scheduler.state_dict()
        return {"moments": moments, "groups": groups, "scheduler": scheduler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        state = copy.deepcopy(state)  # AdamW would change the tensors
        moments = {self.names.index(name): moment for name, moment in state["moments"].items()}
        self.adamw.load_state_dict({"state": moments, "param_groups": state["groups"]})
        self.scheduler.load_state_dict(state["scheduler"])
