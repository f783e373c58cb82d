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
        title: name of the epoch that is being trained: ``1 quadrant, CVAE, epoch 2/50``.
    """

    def __init__(self, planned: Mapping[str, int] | None = None) -> None:
        self.planned = Counter(planned or {})
        self.times: dict[str, list[float]] = {task: [] for task in TYPICAL_COST}
        self.setting = ""
        self.bar: Any = None

    def record(self, task: str, seconds: float) -> None:
        """Count one more of a task as done."""
        self.times[task].append(seconds)

    def drop(self, task: str, number: int) -> None:
        """Count so many of a task as not needed."""
        self.planned[task] -= number

    def seconds_left(self) -> float | None:
        """Return how many seconds the rest takes at most, or None if that is unknown."""
        work = sum(TYPICAL_COST[task] * len(times) for task, times in self.times.items())
        if not work or not self.planned:
            return None
        left, seconds_per_cost = 0.0, sum(map(sum, self.times.values())) / work
        for task, times in self.times.items():
            each = sum(times) / len(times) if times else TYPICAL_COST[task] * seconds_per_cost
            left += max(0, self.planned[task] - len(times)) * each
        return left

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
        """Iterate over the batches of an epoch, with a bar if this is a terminal and not quiet."""
        self.title = f"{self.label}, epoch {len(self.history.epochs) + 1}/{self.num_epochs}"
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
        terms = " (reconstruction {reconstruction:.2f} + KL {kl:.2f})" if "kl" in losses else ""
        line = "training {train:.2f}, validation {val:.2f}" + terms + ", best {best:.2f} nats/image, {seconds:.1f} s"
        shown = [line.format(**losses, best=self.history.best_loss), *self._time_left()]
        logger.info("%s: %s", self.title, ", ".join(shown))

    def _time_left(self, elapsed: float = 0) -> list[str]:
        left = self.seconds_left()
        return [] if left is None else [f"at most {tqdm.format_interval(max(0, left - elapsed))} left"]
