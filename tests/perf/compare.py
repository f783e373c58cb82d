"""Compare the speed of the tutorial's way and of this package, in alternation within one run.

    python -m tests.perf.compare --data-dir DIR [--images N] [--repeats R] [--quadrants 1 3]
                                 [--against PATH]

Prints medians of seconds, and of ratios taken turn by turn.  An epoch is a pass over the training
images and one over the validation images; the table has 10 particles.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from . import package
from .tutorial_way import TutorialWay

OURS, THEIRS, OTHER = "this package", "the tutorial's way", "the other checkout"


def main(argv: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data-dir", default="data", help="folder of the MNIST files")
    parser.add_argument("--images", type=int, default=60_000, help="to train on; 1/6 validate")
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement")
    parser.add_argument("--quadrants", type=int, nargs="+", default=[1], choices=(1, 2, 3))
    parser.add_argument("--against", metavar="PATH", help="another checkout of this package")
    args = parser.parse_args(argv)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for n in args.quadrants:
        ours = package.Package(args.data_dir, args.images, n)
        theirs = TutorialWay(args.data_dir, args.images, n)
        ways = {OURS: partial(package.seconds, ours), THEIRS: partial(package.seconds, theirs)}
        probe, pipe = None, subprocess.PIPE
        if args.against:
            numbers = [args.data_dir, str(args.images), str(n)]
            command = [sys.executable, package.__file__, args.against, *numbers]
            probe = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
            ways[OTHER] = partial(ask, probe)
        for task in package.TASKS:
            print(f"\n{n} known, {args.images:,} images: {task.replace('_', ' ')}")
            report(ways, task, args.repeats)
        if probe:
            probe.communicate()


def ask(probe: subprocess.Popen, task: str) -> float:
    assert probe.stdin and probe.stdout
    probe.stdin.write(f"{task}\n")
    probe.stdin.flush()
    return float(probe.stdout.readline())


def report(ways: Mapping[str, Callable[[str], float]], task: str, repeats: int) -> None:
    """Measure all ways in turn, after a turn to warm up, and print what came out."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            if turn > 0:
                times[name].append(way(task))
            elif name != THEIRS:  # it takes long enough to need no warm-up
                way(task)
    for name, each in times.items():
        ratios = [their / our for their, our in zip(each, times[OURS], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        ratio = f"  {statistics.median(ratios):5.2f} times this package's ({spread})"
        shown = "" if name == OURS else ratio
        print(f"  {name:20} {statistics.median(each):8.2f} s{shown}", flush=True)


if __name__ == "__main__":
    main()
