"""Compare the time of a whole command with that of the tutorial's way.

    python -m tests.perf.time_to_table --data-dir DIR [--jobs 1 2] [--precisions float32 bfloat16]

The command is ``main.py --recipe quick``, from an empty folder to its figures.  The tutorial's time
is that of training all nets: seconds of an epoch, measured in the same run, times the fewest and
the most epochs after which early stopping has ended it.  Its evaluation and figures don't count.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from .package import seconds
from .tutorial_way import TutorialWay

# Epochs of baseline and CVAE; the last are a whole run of Pyro's example.
FEWEST_AND_MOST = ((16, 37), (25, 50))


def main(argv: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data-dir", default="data", help="folder of the MNIST files")
    parser.add_argument("--jobs", nargs="+", default=["1", "2"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    args = parser.parse_args(argv)
    theirs = tutorial(args.data_dir)
    for precision in args.precisions:
        for jobs in args.jobs:
            ours = whole_command(args.data_dir, "--precision", precision, "--jobs", jobs)
            ratios = " to ".join(f"{each / ours:.1f}" for each in theirs)
            print(f"--precision {precision} --jobs {jobs}: {ours:.0f} s, {ratios} times faster")


def whole_command(data_dir: str, *words: str) -> float:
    """Run the whole of ``main.py`` in a folder of its own, and return its seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as output_dir:
        recipe = [sys.executable, "main.py", "--recipe", "quick", "--dataset", "mnist", "--quiet"]
        folders = ["--data-dir", data_dir, "--output-dir", output_dir]
        subprocess.run([*recipe, *folders, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def tutorial(data_dir: str, images: int = 60_000) -> list[float]:
    """Measure an epoch of each net for each setting; return the seconds of fewest and most."""
    measured = []
    for n in (1, 2, 3):
        way = TutorialWay(data_dir, images, num_quadrant_inputs=n)
        baseline, cvae = seconds(way, "baseline_epoch"), seconds(way, "cvae_epoch")
        print(f"{n} known: epochs of {baseline:.1f} s (baseline) and {cvae:.1f} s (CVAE)")
        measured.append((baseline, cvae))
    totals = [sum(n * b + m * c for b, c in measured) for n, m in FEWEST_AND_MOST]
    print(f"tutorial's way, all settings: {' to '.join(f'{each:.0f}' for each in totals)} s")
    return totals


if __name__ == "__main__":
    main()
