"""How much longer a job takes, judged by what it has done so far."""

from collections import Counter
from collections.abc import Mapping

__all__ = ["Forecast", "duration"]

# What one of each takes, compared with an epoch of the baseline, as long as it has not been measured.
TYPICAL = {"baseline": 1.0, "CVAE": 4.0, "evaluation": 8.0}


class Forecast:
    """The parts of a job that are done and those that may be left, early stopping aside.

    Args:
        planned: how many of each part, by its name, a key of ``TYPICAL``.
    """

    def __init__(self, planned: Mapping[str, int]) -> None:
        self.left = Counter(planned)
        self.done: Counter[str] = Counter()
        self.seconds = dict.fromkeys(TYPICAL, 0.0)

    def took(self, part: str, seconds: float) -> None:
        """Take note that one more of a part is done."""
        self.left[part] -= 1
        self.done[part] += 1
        self.seconds[part] += seconds

    def drop(self, part: str, number: int) -> None:
        """Take note that so many of a part are not needed after all."""
        self.left[part] -= number

    def seconds_left(self) -> float | None:
        """Return how many seconds the rest takes at most, or None before anything is done."""
        work = sum(TYPICAL[part] * number for part, number in self.done.items())
        if not work:
            return None
        typical = sum(self.seconds.values()) / work
        each = {
            part: self.seconds[part] / self.done[part] if self.done[part] else TYPICAL[part] * typical
            for part in TYPICAL
        }
        return sum(max(0, number) * each[part] for part, number in self.left.items())


def duration(seconds: float) -> str:
    """Put seconds into words, such as ``1 h 5 min``, ``3 min 20 s`` and ``8 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
