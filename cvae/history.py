"""Losses of every epoch, which epoch was the best, and when to stop."""

import math
from dataclasses import dataclass, field

__all__ = ["EarlyStopping", "History", "Losses"]

Losses = dict[str, float]


@dataclass
class History:
    """Losses of every epoch in nats per image, lower is better.

    Attributes:
        epochs: a dict for each epoch: ``train`` and ``val`` losses; for the CVAE the two terms of
            ``val``, ``reconstruction`` and ``kl``, where it is an ELBO; ``objective``, the number
            of the loss that was minimised, from 1; and ``seconds``.
    """

    epochs: list[Losses] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number, from 1, of the first epoch with the lowest validation loss, or 0.

        Only epochs with the last one's objective are compared.
        """
        objectives = [epoch["objective"] for epoch in self.epochs]
        losses = [
            epoch["val"] if epoch["objective"] == objectives[-1] else math.inf
            for epoch in self.epochs
        ]
        return 1 + losses.index(min(losses)) if losses else 0

    @property
    def best_loss(self) -> float:
        """The validation loss of the best epoch, nats per image."""
        return self.epochs[self.best_epoch - 1]["val"]

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(epoch["seconds"] for epoch in self.epochs)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation loss has not become lower for so many epochs.

    Args:
        patience: number of epochs without a lower validation loss after which training stops.
    """

    patience: int

    def __call__(self, history: History) -> bool:
        """Tell whether the best epoch is ``patience`` epochs ago."""
        return len(history.epochs) - history.best_epoch >= self.patience
