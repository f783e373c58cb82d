"""The forecast: how much of a command's work is left, and how long it takes at most."""

from collections import Counter
from collections.abc import Iterable, Mapping

from tqdm import tqdm

__all__ = ["Forecast"]

# How long one of each task takes, relative to an epoch of the baseline, until it has been measured.
TYPICAL_COST = {"baseline": 1.0, "CVAE": 4.0, "evaluation": 8.0}


class Forecast:
    """How much of a command's work is left.

    Args:
        settings: their names.
        tasks: how many of each task a setting needs, by its name in ``TYPICAL_COST``: epochs of either net, and
            evaluations.
        jobs: number of settings that are trained at the same time.
    """

    def __init__(self, settings: Iterable[str] = (), tasks: Mapping[str, int] | None = None, jobs: int = 1) -> None:
        self.left = {setting: Counter(tasks or {}) for setting in settings}
        self.times: dict[str, list[float]] = {task: [] for task in TYPICAL_COST}
        self.jobs = jobs

    def record(self, setting: str, task: str, seconds: float) -> None:
        """Count one more of a setting's tasks as done."""
        self.times[task].append(seconds)
        self.drop(setting, task, 1)

    def drop(self, setting: str, task: str, number: int) -> None:
        """Count so many of a setting's tasks as not needed."""
        if setting in self.left:
            self.left[setting][task] -= number

    def tasks_left(self) -> int:
        """Return how many tasks are left at most."""
        return sum(tasks.total() for tasks in self.left.values())

    def time_left(self, elapsed: float = 0) -> list[str]:
        """Return in words what is left after so many seconds more, or nothing if that is unknown."""
        left = self.seconds_left()
        return [] if left is None else [f"at most {tqdm.format_interval(max(0, left - elapsed))} left"]

    def seconds_left(self) -> float | None:
        """Return how many seconds the rest takes at most, or None if that is unknown.

        Less if early stopping ends a training sooner.  The next setting begins as soon as one has ended; so before
        the last one begins, all jobs are busy.
        """
        work = sum(TYPICAL_COST[task] * len(times) for task, times in self.times.items())
        if not work or not self.left:
            return None
        seconds_per_cost = sum(map(sum, self.times.values())) / work
        each = {
            task: sum(times) / len(times) if times else TYPICAL_COST[task] * seconds_per_cost
            for task, times in self.times.items()
        }
        left = [sum(number * each[task] for task, number in tasks.items()) for tasks in self.left.values()]
        return (sum(left) + (self.jobs - 1) * max(left)) / self.jobs
