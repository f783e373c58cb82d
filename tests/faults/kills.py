"""Kill runs with SIGKILL again and again, and compare what they come to with a run that was left alone.

One half of the kills comes after a random time, the other half at a random step of writing a file.  A run
is started again after each kill, with the same command, until it has come to its end; then the next one
begins.  Prints where the kills fell, how many runs came to their end, and how many ended otherwise than the
run that was left alone: weights, figures, tables, metrics but for the times.  With several jobs all kills
come after a random time, and each must leave no process behind.
"""

import argparse
import collections
import math
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .runs import SMALL, Child, outcome

STEPS = ("fsync", "replace", "unlink")  # of writing a file, each before and after it is done


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=60, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--jobs", type=int, default=1, help="of the runs")
    args = parser.parse_args(argv)
    words = [*SMALL, "--jobs", str(args.jobs)]
    if args.jobs > 1:
        words += [
            "-n",
            "40",
            "-esp",
            "40",
        ]  # else starting the processes would take most of the time
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        alone = Child([*words, "--output-dir", f"{place}/alone"], Path(place, "alone.log"))
        if alone.wait() != 0:
            raise SystemExit(alone.printed())
        seconds = time.monotonic() - alone.start
        expected = outcome(Path(place, "alone"))
        kills: collections.Counter[str] = collections.Counter()
        runs = mismatches = failures = left_behind = 0
        while kills.total() < args.kills:
            runs += 1
            folder, log = Path(place, f"run_{runs}"), Path(place, f"run_{runs}.log")
            status = -signal.SIGKILL
            while status == -signal.SIGKILL:
                writing = 0.5 if args.jobs == 1 else 0.0
                last = seconds if kills.total() < args.kills else None
                child, where = _one_life(
                    [*words, "--output-dir", str(folder)], log, chance, last, writing
                )
                status = child.wait()
                if status == -signal.SIGKILL:
                    kills[where] += 1
                    left_behind += not child.wait_for_others()
            if status != 0:
                failures += 1
                print(log.read_text())
            elif outcome(folder) != expected:
                mismatches += 1
                print(f"{folder.name} differs")
    for where, count in sorted(kills.items()):
        print(f"killed {where}: {count}")
    print(
        f"{kills.total()} kills of {args.jobs} at a time, {left_behind} left a process behind; {runs} runs, "
        f"{runs - failures} came to their end, {mismatches} of them with another outcome"
    )
    return int(bool(failures or mismatches or left_behind))


def _one_life(
    words: list[str], log: Path, chance: random.Random, seconds: float | None, writing: float
) -> tuple[Child, str]:
    """Start a run, kill it within so many seconds or never, and tell where it was.

    With the probability ``writing`` it is killed while it writes a file.
    """
    if seconds is not None and chance.random() < writing:
        last = chance.randrange(40)  # few lives are long enough for more
        child = Child(words, log, lambda: _die_at(last))
        child.wait()
        return child, "while a file was written"
    child = Child(words, log)
    end = child.start + (math.inf if seconds is None else chance.uniform(0, seconds))
    if child.wait_for(lambda: time.monotonic() > end):
        child.kill()
    return child, _stage(child.printed())


def _die_at(last: int) -> None:
    """Let this process kill itself before or after one of the steps of writing a file."""
    count = 0

    def mortal(name: str):
        original = getattr(os, name)

        def step():
            nonlocal count
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        def call(*args, **kwargs):
            step()
            result = original(*args, **kwargs)
            step()
            return result

        return call

    for name in STEPS:
        setattr(os, name, mortal(name))


def _stage(printed: str) -> str:
    """Tell from the last line what came next."""
    last = printed.strip().splitlines()[-1] if printed.strip() else ""
    if "estimating" in last:
        return "in evaluation or after it"
    if "CVAE" in last:
        return "in training the CVAE"
    if "baseline" in last:
        return "in training the baseline or the first epoch of the CVAE"
    return "before or in the first epoch" if "seed" in last else "before the data were read"


if __name__ == "__main__":
    raise SystemExit(main())
