"""How long a net is trained, and how its weights are moved."""

import math
from dataclasses import dataclass

from cvae.choices import PRECISIONS, SCHEDULES, check_choice

__all__ = ["TrainingSettings"]


@dataclass(frozen=True)
class TrainingSettings:
    """How long a net is trained, and how its weights are moved; the defaults are the tutorial's.

    Attributes:
        num_epochs: maximum number of passes over the training images.
        early_stop_patience: stop after so many epochs without a lower validation loss.
        learning_rate: of Adam; the peak if it varies.
        schedule: ``"constant"`` learning rate, or ``"one-cycle"``: up over three tenths of all steps, then down
            to nearly zero (Smith, Topin (2018), with PyTorch's defaults).
        weight_decay: of AdamW (Loshchilov, Hutter (2019)); with 0 it is plain Adam.
        beta2: decay rate of Adam's average of squared gradients, in [0, 1).
        max_grad_norm: gradients of the batch's mean loss are clipped to this norm.
        precision: of the matrix products in training: ``"float32"`` or ``"bfloat16"``.  Weights, sums, losses,
            validation and evaluation are in float32 either way.

    Raises:
        ValueError: there is no schedule or precision of that name.
    """

    num_epochs: int = 50
    early_stop_patience: int = 3
    learning_rate: float = 1e-3
    schedule: str = "constant"
    weight_decay: float = 0.0
    beta2: float = 0.999
    max_grad_norm: float = math.inf
    precision: str = "float32"

    def __post_init__(self) -> None:
        check_choice(self.schedule, SCHEDULES)
        check_choice(self.precision, PRECISIONS)
