"""Measure the time until the validation negative ELBO of one known quadrant is at or below 71.8 nats per image,
where the tutorial's table has it: first of ``main.py``, from the start of its process, then of the tutorial's way.

Both train the baseline with early stopping first.  The second takes more than half an hour.

    python -m tests.perf.time_to_quality --data-dir DIR
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from cvae.train import EarlyStopping

from .tutorial_way import TutorialWay

QUALITY = 71.8
MAX_EPOCHS = 80
PATIENCE = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf.time_to_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", default="data", help="folder of the MNIST files")
    parser.add_argument("--only", choices=("package", "tutorial"), help="measure one of the two")
    args = parser.parse_args()
    seconds = {}
    if args.only != "tutorial":
        seconds["this package"] = package(args.data_dir)
    if args.only != "package":
        seconds["tutorial's way"] = tutorial(args.data_dir)
    for name, value in seconds.items():
        print(f"{name}: {value:.1f} s to {QUALITY} nats per image")
    if len(seconds) == 2:
        faster = seconds["tutorial's way"] / seconds["this package"]
        print(f"{faster:.1f} times faster")


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
    """Train the tutorial's way, imports left out."""
    torch.manual_seed(0)
    start = time.perf_counter()
    way, stopping = TutorialWay(data_dir, images), EarlyStopping(PATIENCE)
    for epoch in range(1, MAX_EPOCHS + 1):
        loss = way.baseline_epoch()
        print(f"baseline, epoch {epoch}: {loss:.2f}, {time.perf_counter() - start:.0f} s", flush=True)
        stopping.improves(loss)
        if stopping.should_stop:
            break
    loss, epoch = math.inf, 0
    while loss > QUALITY:
        if epoch == MAX_EPOCHS:
            raise SystemExit(f"the tutorial's way did not come to {QUALITY} in {MAX_EPOCHS} epochs")
        loss, epoch = way.cvae_epoch(), epoch + 1
        print(f"CVAE, epoch {epoch}: {loss:.2f}, {time.perf_counter() - start:.0f} s", flush=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
