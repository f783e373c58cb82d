"""Compare the speed of four ways, in alternation within one run.

Prints seconds, images per second and ratios of: the tutorial's way; this package; a bare PyTorch loop over
the same nets; and the matrix products alone.  An epoch is a pass over the training images and one over the
validation images.  Then the exponents with which this package's times grow.

    python -m tests.perf.compare --data-dir DIR [--images 60000] [--repeats 3]
"""

import argparse
import functools
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable

import pyro
import torch
import torchvision

from .bare_loop import BareLoop
from .package import Package
from .products import Products
from .tutorial_way import TutorialWay


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.perf.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", default="data", help="folder of the MNIST files")
    parser.add_argument(
        "--images", type=int, default=60_000, help="training images; a sixth as many validate"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement")
    parser.add_argument("--without-tutorial", action="store_true", help="leave out the slowest way")
    parser.add_argument("--without-growth", action="store_true", help="leave out the exponents")
    args = parser.parse_args()

    print(
        f"{_processor()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, pyro {pyro.__version__}"
    )
    print(
        f"{args.images:,} training and {args.images // 6:,} validation images, 1 quadrant known, batch 128"
    )
    ways = {
        "tutorial's way": None
        if args.without_tutorial
        else TutorialWay(args.data_dir, args.images),
        "this package": Package(args.data_dir, args.images),
        "bare loop": BareLoop(args.data_dir, args.images),
        "products alone": Products(args.images),
    }
    counts = {
        "baseline_epoch": ("baseline epoch", args.images),
        "cvae_epoch": ("CVAE epoch", args.images),
        "table": ("table, 10 particles", args.images // 6),
        "importance": ("importance sampling, 100 particles", args.images // 6),
    }
    for task, (label, images) in counts.items():
        compare(
            label,
            images,
            {name: getattr(way, task, None) for name, way in ways.items()},
            args.repeats,
        )
    if not args.without_growth:
        growth(args.data_dir, args.repeats)


def compare(
    label: str, images: int, ways: dict[str, Callable[[], object] | None], repeats: int
) -> None:
    """Measure the ways in turn, over and over, and print a table of medians; ratios are taken turn by turn."""
    present = {name: way for name, way in ways.items() if way is not None}
    times: dict[str, list[float]] = {name: [] for name in present}
    for turn in range(repeats + 1):
        for name, way in present.items():
            if turn == 0 and name == "tutorial's way":
                continue  # long enough to need no warm-up
            seconds = timed(way)
            if turn > 0:
                times[name].append(seconds)
    others = [name for name in present if name != "this package"]
    print(
        f"\n{label:36} {'seconds':>8} {'images/s':>9}  this package's time / that way's (least to most)"
    )
    for name in present:
        line = f"  {name:34} {statistics.median(times[name]):8.2f} {images / statistics.median(times[name]):9,.0f}"
        if name in others:
            ratios = [ours / theirs for ours, theirs in zip(times["this package"], times[name])]
            line += f"  {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            if name == "tutorial's way":
                line += f": {1 / statistics.median(ratios):.1f} times faster"
        print(line, flush=True)


def growth(root: str, repeats: int) -> None:
    """Print with which exponents the medians of this package's times grow."""
    print(f"\n{'growth of this package':36} exponent  seconds by size")
    sizes = [1_000, 4_000, 16_000, 60_000]
    _fit("CVAE epoch, images", sizes, [Package(root, size).cvae_epoch for size in sizes], repeats)
    sizes = [250, 500, 1_000, 2_000]
    _fit(
        "CVAE epoch of 6,000, hidden units",
        sizes,
        [Package(root, 6_000, n).cvae_epoch for n in sizes],
        repeats,
    )
    sizes, package = [1, 3, 10, 30, 100], Package(root, 6_000)
    _fit(
        "table of 1,000, particles",
        sizes,
        [functools.partial(package.table, n) for n in sizes],
        repeats,
    )
    sizes = [threads for threads in (1, 2) if threads <= torch.get_num_threads()]
    _fit(
        "CVAE epoch of 6,000, threads",
        sizes,
        [functools.partial(_with_threads, n, package.cvae_epoch) for n in sizes],
        repeats,
    )


def _fit(label: str, sizes: list[int], tasks: Iterable[Callable[[], object]], repeats: int) -> None:
    medians = []
    for task in tasks:
        task()
        medians.append(statistics.median(timed(task) for _ in range(repeats)))
    if len(sizes) > 1:
        cells = ", ".join(f"{size:,}: {seconds:.2f}" for size, seconds in zip(sizes, medians))
        print(f"  {label:34} {exponent(sizes, medians):8.2f}  {cells}", flush=True)


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Fit seconds = constant x size^exponent by least squares on logarithms."""
    return statistics.linear_regression(
        list(map(math.log, sizes)), list(map(math.log, seconds))
    ).slope


def _with_threads(threads: int, task: Callable[[], object]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task()
    finally:
        torch.set_num_threads(before)


def timed(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
