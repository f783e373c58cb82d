"""The progress display: a bar for each epoch on a terminal, a line after it, and the time left."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader
from tqdm import tqdm

from cvae.training.history import History

__all__ = ["Progress"]

logger = logging.getLogger(__name__)

# How long one of each task takes, relative to an epoch of the baseline, until it has been measured.
TYPICAL_COST = {"baseline": 1.0, "CVAE": 4.0, "evaluation": 8.0}


class Progress:
    """What a command shows of its work.  The time left is an upper bound, as early stopping may end sooner.

    Args:
        planned: how many of each task, by its name in ``TYPICAL_COST``: epochs of either net, and evaluations.

    Attributes:
        setting: name of the setting that is being trained, at the beginning of each line.
    """

    def __init__(self, planned: Mapping[str, int] | None = None) -> None:
        self.planned = Counter(planned or {})
        self.done: Counter[str] = Counter()
        self.seconds = dict.fromkeys(TYPICAL_COST, 0.0)
        self.setting = ""
        self.bar: Any = None

    def record(self, task: str, seconds: float) -> None:
        """Count one more of a task as done."""
        self.done[task] += 1
        self.seconds[task] += seconds

    def drop(self, task: str, number: int) -> None:
        """Count so many of a task as not needed."""
        self.planned[task] -= number

    def seconds_left(self) -> float | None:
        """Return how many seconds the rest takes at most, or None if that is unknown."""
        work = sum(TYPICAL_COST[task] * number for task, number in self.done.items())
        if not work or not self.planned:
            return None
        seconds_per_cost = sum(self.seconds.values()) / work
        each = {
            task: self.seconds[task] / self.done[task] if self.done[task] else cost * seconds_per_cost
            for task, cost in TYPICAL_COST.items()
        }
        return sum(max(0, self.planned[task] - self.done[task]) * each[task] for task in self.planned)

    def log(self, message: str) -> None:
        """Log a line about the setting."""
        logger.info("%s: %s", self.setting, message)

    def begin(self, net: str, history: History, num_epochs: int, finished: bool) -> None:
        """Start the display of a net's training, of which some epochs may have been loaded."""
        self.net, self.history, self.num_epochs = net, history, num_epochs
        for epoch in history.epochs:
            self.record(net, epoch["seconds"])
        if history.epochs and not finished:
            logger.info("%s: resumed after epoch %d", self._label, len(history.epochs))

    def batches(self, loader: DataLoader) -> Iterator[Any]:
        """Iterate over the batches of an epoch, with a bar if this is a terminal and not quiet."""
        disable = None if logger.isEnabledFor(logging.INFO) else True  # None: unless this is a terminal
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
        shown += self._time_left(self.bar.format_dict["elapsed"])
        self.bar.set_postfix_str(", ".join(shown), refresh=False)

    def end_epoch(self) -> None:
        """Log the losses of the last epoch."""
        losses = self.history.epochs[-1]
        self.record(self.net, losses["seconds"])
        terms = ""
        if "kl" in losses:
            terms = f" (reconstruction {losses['reconstruction']:.2f} + KL {losses['kl']:.2f})"
        shown = [
            f"{self._title(len(self.history.epochs))}: training {losses['train']:.2f}",
            f"validation {losses['val']:.2f}{terms}",
            f"best {self.history.best_loss:.2f} nats/image",
            f"{losses['seconds']:.1f} s",
        ]
        logger.info("%s", ", ".join(shown + self._time_left()))

    def end(self) -> None:
        """Count the epochs that early stopping has saved as not needed."""
        self.drop(self.net, self.num_epochs - len(self.history.epochs))

    @property
    def title(self) -> str:
        """Name of the epoch that comes next."""
        return self._title(len(self.history.epochs) + 1)

    @property
    def _label(self) -> str:
        return ", ".join(filter(None, [self.setting, self.net]))

    def _title(self, epoch: int) -> str:
        return f"{self._label}, epoch {epoch}/{self.num_epochs}"

    def _time_left(self, elapsed: float = 0) -> list[str]:
        left = self.seconds_left()
        return [] if left is None else [f"at most {tqdm.format_interval(max(0, left - elapsed))} left"]
