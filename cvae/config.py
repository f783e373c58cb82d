"""How a net is trained: its options with their defaults, ranges and help."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["FRACTION", "MAX_FACTOR", "TrainingConfig", "option"]

MAX_FACTOR = 20  # by which epochs are multiplied at most, to come to min_steps
POSITIVE: dict[str, Any] = {"least": 0, "open": True}
FRACTION: dict[str, Any] = {"least": 0, "most": 1, "open": True}


def option(default: Any, help: str, short: str = "", **limits: Any) -> Any:
    """Make a field of a config with all that its flag needs.

    Args:
        default: of the option.
        help: what it is.
        short: form of the flag, such as ``-n``.
        limits: ``choices``; or for numbers ``least`` and ``most``, both excluded if ``open``.
    """
    return field(default=default, metadata={"help": help, "short": short, **limits})


@dataclass(frozen=True)
class TrainingConfig:
    """How long a net is trained and how its weights are moved; the defaults are the tutorial's.

    Attributes:
        schedule: ``"one-cycle"`` is up over three tenths of all steps, then down to nearly zero
            (Smith, Topin (2018), with PyTorch's defaults, but a constant beta1 of 0.9).
        weight_decay: of the optimizer's matrices, not of biases and other parameters.
        max_grad_norm: limit of the norm of the gradients of a batch's mean loss.
        precision: weights, sums, losses, validation and evaluation are in float32 either way.
        min_steps: on a small data set, epochs are multiplied, at most by 20, until they come to so
            many gradient steps.

    Raises:
        ValueError: there is no schedule or precision of that name.
    """

    num_epochs: int = option(50, "maximum number of epochs of each net", "-n", least=1)
    early_stop_patience: int = option(
        3, "stop after so many epochs without a lower validation loss", "-esp", least=1
    )
    learning_rate: float = option(
        1e-3, "learning rate of Adam; its peak, if it varies", "-lr", **POSITIVE
    )
    schedule: str = option(
        "constant", "course of the learning rate over all epochs", choices=("constant", "one-cycle")
    )
    weight_decay: float = option(
        0.0, "weight decay of matrices, by AdamW; with 0 it is plain Adam", least=0
    )
    beta2: float = option(0.999, "decay of Adam's average of squared gradients", **FRACTION)
    max_grad_norm: float = option(math.inf, "limit of the CVAE's mean gradients", **POSITIVE)
    precision: str = option(
        "float32", "precision of matrix products in training", choices=("float32", "bfloat16")
    )
    min_steps: int = 0

    def __post_init__(self) -> None:
        for name, choices in ((f.name, f.metadata.get("choices")) for f in fields(self)):
            if choices and (value := getattr(self, name)) not in choices:
                raise ValueError(f"unknown {name} {value!r}; choose {' or '.join(choices)}")

    def epochs(self, steps_per_epoch: int) -> int:
        """Return the maximum number of epochs, given the number of training batches."""
        enough = math.ceil(self.min_steps / steps_per_epoch)
        return max(self.num_epochs, min(MAX_FACTOR * self.num_epochs, enough))
