"""How weights are moved, and for how long."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn as nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

__all__ = ["POLICIES", "Schedule"]

POLICIES = ("constant", "one-cycle")


@dataclass(frozen=True)
class Schedule:
    """How weights are moved, and for how long.

    Attributes:
        learning_rate: of Adam; the peak, where it varies.
        num_epochs: at most so many passes over the training images.
        early_stop_patience: stop after so many epochs without a better validation loss.
        policy: ``"constant"`` learning rate, or ``"one-cycle"``: up for three tenths of all steps and then
            down to nearly nothing (Smith, Topin (2018), with PyTorch's defaults).
        weight_decay: by which each step shrinks the weights, times the learning rate (Loshchilov, Hutter
            (2019)).
        beta2: of Adam: how slowly it forgets the squares of the gradients, in [0, 1).
        max_grad_norm: scale a longer gradient of the batch's mean loss down to this norm.

    Raises:
        ValueError: no policy has that name.
    """

    learning_rate: float = 1e-3
    num_epochs: int = 50
    early_stop_patience: int = 3
    policy: str = "constant"
    weight_decay: float = 0.0
    beta2: float = 0.999
    max_grad_norm: float = math.inf

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"no policy is called {self.policy!r}: choose from {', '.join(POLICIES)}")

    def start(self, parameters: Iterable[nn.Parameter], steps_per_epoch: int) -> tuple[AdamW, LRScheduler]:
        """Make the optimiser and what sets its learning rate before each step."""
        optimizer = AdamW(
            parameters,
            lr=self.learning_rate,
            betas=(0.9, self.beta2),
            weight_decay=self.weight_decay,
            fused=True,
        )
        if self.policy == "one-cycle":
            steps = self.num_epochs * steps_per_epoch
            return optimizer, OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return optimizer, ConstantLR(optimizer, factor=1)
