"""Kill runs with SIGKILL again and again, and compare what they come to with one left alone.

One half of the kills comes after a random time, the other half before or after a random step of
writing a file.  A run is started again after each kill, with the same command, until it has come
to its end; then the next one begins.  Weights, figures, tables and metrics but for the times must
be those of the run that was left alone, and no kill may leave a process behind.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from cvae.datasets import load_images
from tests.faults import end_of_group, written_by
from tests.faults.coarse import main as program

WORDS = "--dataset mnist-5k --subset 400 -n 4 -p 2 --num-importance-samples 8 -vi 3 -vs 2 -nq 1 3"
STEPS = ("fsync", "replace", "unlink")  # of writing a file
MAX_STEPS = 60  # few lives are long enough for more


def main(argv: Sequence[str] | None = None) -> int:
    """Kill runs, print where that was, and return 1 if any did not end as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--jobs", type=int, default=1, help="of the runs")
    parser.add_argument("--quick", action="store_true", help="few images and epochs")
    args = parser.parse_args(argv)
    words = [*WORDS.split(), "--jobs", str(args.jobs)]
    if args.quick:
        words += ["--subset", "60", "-n", "3", "-nq", "3"]
    if args.jobs > 1:
        words += ["-n", "60", "-esp", "60"]  # else most of the time would be the children's start
    torch.set_num_threads(1)  # a copy of a process has none of its threads
    load_images("mnist-5k", "")
    chance, kills, failures, runs = random.Random(args.seed), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as place:
        alone, log = Path(place, "alone"), Path(place, "log")
        start = time.monotonic()
        if wait(fork([*words, "--output-dir", str(alone)], log)):
            raise SystemExit(log.read_text())
        seconds, expected = time.monotonic() - start, written_by(alone)
        while kills.total() < args.kills:
            runs += 1
            folder, status = Path(place, f"run {runs}"), -signal.SIGKILL
            while status == -signal.SIGKILL:
                step = chance.randrange(MAX_STEPS) if chance.random() < 0.5 else None
                if kills.total() >= args.kills or args.jobs > 1:
                    step = None
                pid = fork([*words, "--output-dir", str(folder)], log, step)
                if step is None and kills.total() < args.kills:
                    kill_within(pid, chance.uniform(0, seconds))
                status = wait(pid)
                if status == -signal.SIGKILL:
                    kills["at any time" if step is None else "in writing a file"] += 1
                if not end_of_group(pid):
                    failures += 1
                    print("a process was left behind")
            if status or written_by(folder) != expected:
                failures += 1
                print(f"{folder.name} ended otherwise, exit status {status}:\n{log.read_text()}")
    for where, count in sorted(kills.items()):
        print(f"killed {where}: {count}")
    print(f"{kills.total()} kills in {runs} runs, {args.jobs} at a time: {failures} failures")
    return int(failures > 0)


def fork(words: list[str], log: Path, step: int | None = None) -> int:
    """Run ``main.py`` in a copy of this process, which kills itself at a step of writing files."""
    log.touch()
    if pid := os.fork():
        with contextlib.suppress(OSError):  # whichever of both is first
            os.setpgid(pid, pid)
        return pid
    status = 70
    with contextlib.suppress(BaseException):
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if step is not None:
            die_at(step)
        status = program.main(words)
    os._exit(status)


def wait(pid: int) -> int:
    """Return the exit status of a process, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_within(pid: int, seconds: float) -> None:
    """Kill a process after some seconds, unless it has ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)


def die_at(step: int) -> None:
    """Let this process kill itself before or after one of the steps of writing a file."""

    def count() -> None:
        nonlocal step
        if step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        step -= 1

    def mortal(name: str) -> None:
        original = getattr(os, name)

        def call(*args, **kwargs):
            count()
            result = original(*args, **kwargs)
            count()
            return result

        setattr(os, name, call)

    for name in STEPS:
        mortal(name)


if __name__ == "__main__":
    sys.exit(main())
