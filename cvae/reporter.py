"""What a stage of training says of itself: a bar over each epoch on a terminal, and a line after it."""

import logging
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from cvae.forecast import Forecast, duration
from cvae.progress import History

__all__ = ["Reporter"]

logger = logging.getLogger(__name__)


class Reporter:
    """Speaks for one stage.

    Args:
        label: how its lines begin.
        part: of the forecast, that an epoch of this stage is.
        forecast: of the whole job; without one nothing is said of the time that is left.
    """

    def __init__(self, label: str, part: str, forecast: Forecast | None = None) -> None:
        self.label = label
        self.part = part
        self.forecast = forecast
        self.bar: Any = None

    def begin(self, history: History, finished: bool) -> None:
        """Say what was done before."""
        for epoch in history.epochs:
            self._took(epoch["seconds"])
        if history.epochs and not finished:
            logger.info("%s: goes on after epoch %d", self.label, len(history.epochs))

    def batches(self, loader: DataLoader, title: str) -> Iterator[Any]:
        """Iterate over the batches of an epoch, with a bar of that title where somebody watches."""
        silent = None if logger.isEnabledFor(logging.INFO) else True  # None: where there is no terminal
        with tqdm(loader, title, leave=False, disable=silent) as self.bar:
            yield from self.bar

    def batch(self, loss: float, history: History) -> None:
        """Show in the bar the mean training loss of the epoch so far."""
        if self.bar.disable:
            return
        said = [f"loss {loss:.1f}"]
        if history.epochs:
            if "kl" in history.epochs[-1]:
                said.append(f"KL {history.epochs[-1]['kl']:.1f}")
            said.append(f"best {history.best_loss:.1f}")
        self.bar.set_postfix_str(
            ", ".join(said + self._time_left(self.bar.format_dict["elapsed"])), refresh=False
        )

    def epoch(self, history: History, num_epochs: int) -> None:
        """Say how the last epoch went."""
        losses = history.epochs[-1]
        self._took(losses["seconds"])
        terms = ""
        if "kl" in losses:
            terms = f" (reconstruction {losses['reconstruction']:.2f} + KL {losses['kl']:.2f})"
        said = [
            f"{self.title(len(history.epochs), num_epochs)}: training {losses['train']:.2f}",
            f"validation {losses['val']:.2f}{terms}",
            f"best {history.best_loss:.2f} nats/image",
            f"{losses['seconds']:.1f} s",
        ]
        logger.info("%s", ", ".join(said + self._time_left()))

    def end(self, history: History, num_epochs: int) -> None:
        """Take note that no more epochs are needed."""
        if self.forecast:
            self.forecast.drop(self.part, num_epochs - len(history.epochs))

    def title(self, epoch: int, num_epochs: int) -> str:
        """Name an epoch."""
        return f"{self.label}, epoch {epoch}/{num_epochs}"

    def _took(self, seconds: float) -> None:
        if self.forecast:
            self.forecast.took(self.part, seconds)

    def _time_left(self, elapsed: float = 0) -> list[str]:
        left = self.forecast.seconds_left() if self.forecast else None
        return [] if left is None else [f"at most {duration(max(0, left - elapsed))} left"]
