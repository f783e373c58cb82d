"""Measure the time until the validation negative ELBO of one known quadrant is at or below 71.8 nats per image,
where the tutorial's table has it: first of ``main.py``, from the start of its process, then of the tutorial's way,
as its seconds an epoch times the epochs that it takes.

    python -m tests.perf.time_to_quality --data-dir DIR

Those epochs were counted once, which takes most of an hour, by

    python -m tests.perf.time_to_quality --data-dir DIR --count
"""

import argparse
import copy
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from cvae.train import EarlyStopping
from cvae.training.history import History

from .compare import timed
from .tutorial_way import TutorialWay

QUALITY = 71.8
BASELINE_EPOCHS, CVAE_EPOCHS = 25, 51  # counted, with seed 0 and one thread
MAX_EPOCHS = 80
PATIENCE = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf.time_to_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", default="data", help="folder of the MNIST files")
    parser.add_argument("--count", action="store_true", help="count the epochs of the tutorial's way instead")
    args = parser.parse_args()
    if args.count:
        count_epochs(args.data_dir)
        return
    ours, theirs = package(args.data_dir), tutorial(args.data_dir)
    print(f"this package: {ours:.0f} s to {QUALITY} nats per image")
    print(f"tutorial's way: {theirs:.0f} s, {theirs / ours:.1f} times as long")


def package(data_dir: str) -> float:
    """Start ``main.py`` and wait for the line that tells of the quality."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as output_dir:
        command = [sys.executable, "main.py", "-nq", "1", "--dataset", "mnist", "--data-dir", data_dir]
        process = subprocess.Popen(
            [*command, "--output-dir", output_dir],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout as lines:
            for line in lines:
                print(line, end="", flush=True)
                match = re.search(r"CVAE, epoch .* validation ([\d.]+)", line)
                if match and float(match[1]) <= QUALITY:
                    seconds = time.perf_counter() - start
                    process.terminate()
                    return seconds
    raise SystemExit(f"main.py never came to {QUALITY}")


def tutorial(data_dir: str, images: int = 60_000) -> float:
    """Measure one epoch of each net, and take it as many times as it was counted."""
    way = TutorialWay(data_dir, images)
    baseline, cvae = timed(way.baseline_epoch), timed(way.cvae_epoch)
    print(f"tutorial's way: {BASELINE_EPOCHS} x {baseline:.1f} s + {CVAE_EPOCHS} x {cvae:.1f} s", flush=True)
    return BASELINE_EPOCHS * baseline + CVAE_EPOCHS * cvae


def count_epochs(data_dir: str, images: int = 60_000) -> tuple[int, int]:
    """Train the tutorial's way: the baseline with early stopping, then the CVAE until it has the quality."""
    torch.manual_seed(0)
    way, history = TutorialWay(data_dir, images, keep_samples=True), History()
    should_stop = EarlyStopping(PATIENCE)
    for baseline_epochs in range(1, MAX_EPOCHS + 1):
        history.epochs.append({"val": way.baseline_epoch()})
        print(f"baseline, epoch {baseline_epochs}: {history.epochs[-1]['val']:.2f}", flush=True)
        if history.best_epoch == baseline_epochs:
            best_weights = copy.deepcopy(way.baseline.state_dict())
        if should_stop(history):
            break
    way.baseline.load_state_dict(best_weights)
    for cvae_epochs in range(1, MAX_EPOCHS + 1):
        loss = way.cvae_epoch()
        print(f"CVAE, epoch {cvae_epochs}: {loss:.2f}", flush=True)
        if loss <= QUALITY:
            return baseline_epochs, cvae_epochs
    raise SystemExit(f"the tutorial's way did not come to {QUALITY} in {MAX_EPOCHS} epochs")


if __name__ == "__main__":
    main()
