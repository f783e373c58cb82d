"""The progress display: a bar for each epoch on a terminal, a line after it, and the time left."""

import logging
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from cvae.training.forecast import Forecast
from cvae.training.history import History

__all__ = ["Progress"]

logger = logging.getLogger(__name__)


class Progress:
    """What a command shows of its work on one setting.

    Args:
        setting: its name, at the beginning of each line.
        forecast: of the whole command.
        bar: show a bar for each epoch if this is a terminal and not quiet.

    Attributes:
        title: name of the epoch that is being trained: ``1 quadrant, CVAE, epoch 2/50``.
    """

    def __init__(self, setting: str = "", forecast: Forecast | None = None, bar: bool = True) -> None:
        self.setting, self.forecast, self.shows_bar = setting, forecast or Forecast(), bar
        self.bar: Any = None

    def record(self, task: str, seconds: float) -> None:
        """Count one more of a task as done."""
        self.forecast.record(self.setting, task, seconds)

    def drop(self, task: str, number: int) -> None:
        """Count so many of a task as not needed."""
        self.forecast.drop(self.setting, task, number)

    def log(self, message: str) -> None:
        """Log a line about the setting."""
        logger.info("%s: %s", self.setting, message)

    def begin(self, net: str, history: History, num_epochs: int, finished: bool) -> None:
        """Start the display of a net's training, of which some epochs may have been loaded."""
        self.net, self.history, self.num_epochs = net, history, num_epochs
        self.label = ", ".join(filter(None, [self.setting, net]))
        for epoch in history.epochs:
            self.record(net, epoch["seconds"])
        if history.epochs and not finished:
            logger.info("%s: resumed after epoch %d", self.label, len(history.epochs))

    def batches(self, loader: DataLoader) -> Iterator[Any]:
        """Iterate over the batches of an epoch."""
        self.title = f"{self.label}, epoch {len(self.history.epochs) + 1}/{self.num_epochs}"
        shown = self.shows_bar and logger.isEnabledFor(logging.INFO)
        disable = None if shown else True  # None: unless this is a terminal
        with tqdm(loader, self.title, leave=False, disable=disable) as self.bar:
            yield from self.bar

    def show_loss(self, loss: float) -> None:
        """Show the mean training loss of the epoch so far in the bar."""
        if self.bar.disable:
            return
        shown = [f"loss {loss:.1f}"]
        if self.history.epochs:
            if "kl" in self.history.epochs[-1]:
                shown.append(f"KL {self.history.epochs[-1]['kl']:.1f}")
            shown.append(f"best {self.history.best_loss:.1f}")
        shown += self.forecast.time_left(self.bar.format_dict["elapsed"])
        self.bar.set_postfix_str(", ".join(shown), refresh=False)

    def end_epoch(self) -> None:
        """Log the losses of the last epoch."""
        losses = self.history.epochs[-1]
        self.record(self.net, losses["seconds"])
        terms = " (reconstruction {reconstruction:.2f} + KL {kl:.2f})" if "kl" in losses else ""
        line = "training {train:.2f}, validation {val:.2f}" + terms + ", best {best:.2f} nats/image, {seconds:.1f} s"
        shown = [line.format(**losses, best=self.history.best_loss), *self.forecast.time_left()]
        logger.info("%s: %s", self.title, ", ".join(shown))
