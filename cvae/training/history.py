"""The history of a training run: its losses epoch by epoch."""

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["History"]


@dataclass
class History:
    """Losses of every epoch in nats per image, lower is better.

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
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(epoch["seconds"] for epoch in self.epochs)
