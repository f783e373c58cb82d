"""Measure what share of a run the animation takes, within one run.

For each epoch of both nets: the frames of an epoch, as GIF and where ffmpeg is found as MP4.

    python -m tests.perf.animation --data-dir DIR [--images 60000] [--epochs 30]
"""

import argparse
import shutil
import time

import torch
from PIL import Image

from cvae.figures.animation import Animation, encode_gif, encode_mp4
from cvae.figures.figures import FRAMES_PER_EPOCH, NUM_ANIMATED

from .package import Package


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf.animation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", default="data", help="folder of the MNIST files")
    parser.add_argument(
        "--images", type=int, default=60_000, help="training images; a sixth as many validate"
    )
    parser.add_argument("--epochs", type=int, default=30, help="that are animated")
    args = parser.parse_args()

    package = Package(args.data_dir, args.images)
    start = time.perf_counter()
    package.baseline_epoch()
    package.cvae_epoch()
    epoch = time.perf_counter() - start

    snapshots = torch.randint(
        0, 256, (args.epochs, FRAMES_PER_EPOCH, NUM_ANIMATED, 28, 28), dtype=torch.uint8
    )
    truth, known = torch.rand(NUM_ANIMATED, 28, 28), torch.rand(28, 28) < 0.5
    animation = Animation(
        torch.rand(args.epochs).tolist(), list(snapshots), truth, known, "random images"
    )
    frames: list[Image.Image] = []
    for name, work in (
        ("frames", lambda: frames.extend(animation.render())),
        ("gif", lambda: encode_gif(frames)),
        *([("mp4", lambda: encode_mp4(frames))] if shutil.which("ffmpeg") else []),
    ):
        start = time.perf_counter()
        work()
        seconds = (time.perf_counter() - start) / args.epochs
        print(
            f"{name}: {seconds:.3f} s for each epoch, {epoch:.1f} s for an epoch of both nets: "
            f"{100 * seconds / epoch:.1f} %"
        )


if __name__ == "__main__":
    main()
