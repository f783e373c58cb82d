"""The command line: a flag for every option."""

import argparse
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from cvae.datasets import resolve_dataset
from cvae.experiment.models import find_model
from cvae.experiment.options import CONFIGS, RECIPES, Config, make_config
from cvae.files import CVAEError, UsageError
from cvae.model import CVAE

__all__ = ["OneLineParser", "add_model_flag", "dataset_name", "folder", "make_parser", "number"]
__all__ += ["parse_args"]


class OneLineParser(argparse.ArgumentParser):
    """Print in one line what is wrong, without the usage."""

    def __init__(self, prog: str, description: str | None, **options: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=raw, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists all flags)\n")


def number(
    kind: type, least: float, most: float | None = None, open: bool = False
) -> Callable[[str], Any]:
    """Make a converter to numbers from ``least`` to ``most``, or if it is open, between them."""
    most = most or (math.inf if open else 1e9)

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            problem = f"{text!r} is not a {'whole ' * (kind is int)}number"
            raise argparse.ArgumentTypeError(problem) from None
        if not (least < value < most if open else least <= value <= most):
            wanted = f"above {least} and below {most}" if open else f"from {least} to {most:.0f}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: must be {wanted}")
        return value

    return convert


def dataset_name(text: str) -> str:
    """Check the name of a data set; the path of one's own images becomes absolute."""
    try:
        return text if text == "auto" else resolve_dataset(text, "")
    except CVAEError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device_name(text: str) -> str:
    """Check the name of a device, which need not be there."""
    if re.fullmatch("auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N, mps")


def folder(text: str) -> Path:
    """Check the name of a folder, which need not exist."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    text = os.path.expanduser(text)
    if os.path.lexists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def png_file(text: str) -> Path:
    """Check the name of a PNG file to write, so that no other kind of file is overwritten."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    return Path(text).expanduser()


def class_name(text: str) -> str:
    """Check the form of the name of a class."""
    if not re.fullmatch(r"(.+\.py|[\w.]*\w):\w+", text):
        problem = f"{text!r} is neither mine.py:Name nor package.module:Name"
        raise argparse.ArgumentTypeError(problem)
    return text


def add_model_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, which becomes a class, to a command that uses a trained model."""

    def find(text: str) -> type:
        try:
            return find_model(class_name(text))
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except (TypeError, ValueError) as error:  # of the file itself, which argparse would hide
            raise ImportError(f"{text} can't be imported") from error

    help = "class that was trained, as for main.py (default: the CVAE of cvae/model.py)"
    parser.add_argument("--model", type=find, default=CVAE, metavar="NAME", help=help)


def number_or_auto(text: str) -> int | None:
    """Turn ``auto`` into None, and other words into a number."""
    return None if text == "auto" else number(int, 1, 1024)(text)


# What does not follow from the type of an option, by its name.
SPECIAL: dict[str, dict[str, Any]] = {
    "dataset": {"type": dataset_name, "metavar": "NAME"},
    "device": {"type": device_name, "metavar": "NAME"},
    "jobs": {"type": number_or_auto, "metavar": "N"},
    "model": {"type": class_name, "metavar": "NAME"},
}


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Make a flag of every option; those of Pyro's example have its names and short forms."""
    # Flags that are not given leave no value behind.
    parser = OneLineParser("main.py", description, argument_default=argparse.SUPPRESS)
    for title, cls in CONFIGS.items():
        group, kinds = parser.add_argument_group(title), get_type_hints(cls)
        for option in fields(cls):
            if "help" in option.metadata:
                _add_flag(group, option, kinds[option.name])
        if title == "training":
            help = "maximum number of epochs of the baseline, if it is another one"
            help += _defaults("baseline_epochs", None)
            group.add_argument("--baseline-epochs", type=number(int, 1), metavar="N", help=help)
        if title == "run":
            group.add_argument("--cuda", action="store_true", help="short for --device cuda")
    return parser


def _add_flag(group: Any, option: Field, kind: Any) -> None:
    """Add the flag of an option, by its type."""
    limits = dict(option.metadata)
    help, short = limits.pop("help") + _defaults(option.name, option.default), limits.pop("short")
    base = (get_args(kind) or (kind,))[0]  # int of int | None and of tuple[int, ...]
    options: dict[str, Any]
    if option.name in SPECIAL:
        options = SPECIAL[option.name]
    elif "choices" in limits:
        options = {"type": base, "choices": limits["choices"]}
    elif base is bool:
        optional = kind is not bool
        options = {"action": argparse.BooleanOptionalAction if optional else "store_true"}
    elif base is Path:
        options = {"type": folder, "metavar": "DIR"}
    else:
        options = {"type": number(base, **limits), "metavar": "N"}
    if get_origin(kind) is tuple:
        options["nargs"] = "+"
    words = [*filter(None, [short]), f"--{option.name.replace('_', '-')}"]
    group.add_argument(*words, help=help.replace("%", "%%"), dest=option.name, **options)


def parse_args(argv: Sequence[str] | None = None, description: str | None = None) -> Config:
    """Read a command line; a bad one ends the process with one line and exit status 2.

    Args:
        argv: the words after the program's name, by default this process's own.
        description: stands at the top of the help.
    """
    parser = make_parser(description)
    given = vars(parser.parse_args(argv))
    if given.pop("cuda", False):
        if given.get("device", "auto") in ("cpu", "mps"):
            parser.error(f"--cuda contradicts --device {given['device']}")
        given["device"] = given.get("device", "cuda").replace("auto", "cuda")
    for flag, name in (("-nq", "num_quadrant_inputs"), ("--seeds", "seeds")):
        if name in given:
            values = given[name] = tuple(given[name])
            if len(set(values)) < len(values):
                parser.error(f"{flag} {' '.join(map(str, values))}: each may be given once")
    return make_config(given)


def _defaults(name: str, usual: Any) -> str:
    """Return the default of a flag for its help, and those of recipes that have another."""
    shown = [] if usual is None or usual is False else [f"default: {_shown(usual)}"]
    for recipe, values in RECIPES.items():
        if values.get(name, usual) != usual:
            shown.append(f"{recipe}: {_shown(values[name])}")
    return f" ({'; '.join(shown)})" if shown else ""


def _shown(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return "none" if text == "inf" else text
