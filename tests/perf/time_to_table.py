"""Compare the time of a whole ``main.py --recipe quick``, from an empty folder to its figures, with the time that the
tutorial's way takes to train the nets of all three settings.

    python -m tests.perf.time_to_table --data-dir DIR [--jobs 1 2] [--precisions float32 bfloat16]

The latter is the seconds of an epoch of each net, measured in the same run, times the fewest and the most epochs after
which early stopping has ended it with the tutorial's settings.  The tutorial's evaluation and figures are not counted.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from .compare import timed
from .tutorial_way import TutorialWay

FEWEST_AND_MOST = (
    (16, 37),
    (25, 50),
)  # epochs of baseline and CVAE; the last are a whole run of Pyro's example


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf.time_to_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", default="data", help="folder of the MNIST files")
    parser.add_argument(
        "--jobs", nargs="+", default=["1", "2"], help="numbers of settings at a time"
    )
    parser.add_argument(
        "--precisions", nargs="+", default=["float32", "bfloat16"], help="of this package"
    )
    args = parser.parse_args()
    theirs = tutorial(args.data_dir)
    for precision in args.precisions:
        for jobs in args.jobs:
            ours = timed(lambda: package(args.data_dir, precision, jobs))
            ratios = " to ".join(f"{seconds / ours:.1f}" for seconds in theirs)
            print(
                f"--precision {precision} --jobs {jobs}: {ours:.0f} s, {ratios} times faster",
                flush=True,
            )


def package(data_dir: str, precision: str, jobs: str) -> None:
    """Run the whole of ``main.py`` in a folder of its own."""
    with tempfile.TemporaryDirectory() as output_dir:
        command = [
            sys.executable,
            "main.py",
            "--recipe",
            "quick",
            "--precision",
            precision,
            "--jobs",
            jobs,
            "--quiet",
        ]
        images = ["--dataset", "mnist", "--data-dir", data_dir, "--output-dir", output_dir]
        subprocess.run(
            [*command, *images],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            check=True,
        )


def tutorial(data_dir: str, images: int = 60_000) -> list[float]:
    """Measure an epoch of each net for each setting, and return the seconds of the fewest and of the most epochs."""
    totals = [0.0 for _ in FEWEST_AND_MOST]
    for n in (1, 2, 3):
        way = TutorialWay(data_dir, images, num_quadrant_inputs=n)
        baseline, cvae = timed(way.baseline_epoch), timed(way.cvae_epoch)
        print(
            f"tutorial's way, {n} known: epochs of {baseline:.1f} s (baseline) and {cvae:.1f} s (CVAE)",
            flush=True,
        )
        for index, (baseline_epochs, cvae_epochs) in enumerate(FEWEST_AND_MOST):
            totals[index] += baseline_epochs * baseline + cvae_epochs * cvae
    print(
        f"tutorial's way, all three settings: {' to '.join(f'{seconds:.0f}' for seconds in totals)} s"
    )
    return totals


if __name__ == "__main__":
    main()
