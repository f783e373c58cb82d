"""The console: command line, log lines, progress bars, one-line errors, exit statuses."""

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from types import FrameType
from typing import Any, NoReturn

from tqdm import tqdm

from cvae.config import (
    RECIPES,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
    UsageError,
    make_config,
    number,
)

__all__ = [
    "EXPECTED_ERRORS",
    "OneLineParser",
    "epoch_bar",
    "exit_status",
    "make_parser",
    "one_line",
]
__all__ += ["parse_args", "show_log"]

logger = logging.getLogger("cvae")

EXPECTED_ERRORS = (OSError, RuntimeError, MemoryError, UsageError)  # their message is enough


class OneLineParser(argparse.ArgumentParser):
    """Print in one line what is wrong, without the usage."""

    def __init__(self, prog: str, description: str | None, **options: Any) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=raw, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists all flags)\n")


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Make a flag of every option; those of Pyro's example have its names and short forms."""
    # Flags that are not given leave no value behind.
    parser = OneLineParser("main.py", description, argument_default=argparse.SUPPRESS)
    for cls in (Config, DataConfig, TrainingConfig, ModelConfig, EvaluationConfig):
        group = parser.add_argument_group(cls.__name__.removesuffix("Config").lower() or "run")
        for each in fields(cls):
            if "help" in each.metadata:
                options = dict(each.metadata["options"])
                if "type" in options and "choices" not in options:
                    options.setdefault("metavar", "N")
                flags = [*each.metadata["flags"], f"--{each.name.replace('_', '-')}"]
                help = each.metadata["help"] + _defaults(each.name, each.default)
                group.add_argument(*flags, help=help.replace("%", "%%"), dest=each.name, **options)
        if cls is TrainingConfig:
            help = "maximum number of epochs of the baseline, if it is another one"
            help += _defaults("baseline_epochs", None)
            group.add_argument("--baseline-epochs", type=number(int, 1), metavar="N", help=help)
        if cls is Config:
            group.add_argument("--cuda", action="store_true", help="short for --device cuda")
    return parser


def parse_args(argv: Sequence[str] | None = None, description: str | None = None) -> Config:
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


def exit_status(run: Callable[[Config], None], config: Config) -> int:
    """Run, report a failure or an interruption in one line, and leave the process as it was.

    Returns:
        0 if all went well, 1 for a run that failed, 2 for a bad command line, and 128 plus the
        number of the signal that stopped the run.
    """
    received: list[int] = []
    with contextlib.ExitStack() as stack:
        rank, world_size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        if rank.isdecimal() and rank != "0" and world_size not in ("", "1"):
            nowhere = stack.enter_context(open(os.devnull, "w"))  # one process prints for all
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            with _interrupted_by_signals(received):
                run(config)
            return 0
        except (*EXPECTED_ERRORS, KeyboardInterrupt) as error:
            if config.debug:
                traceback.print_exc()
            status, reason = 1, f"error: {one_line(error)}"
            if received:  # whatever a library made of the interruption
                without = " without --overwrite" if config.overwrite else ""
                status, name = 128 + received[0], signal.Signals(received[0]).name
                advice = f"the same command{without} resumes after the last finished epoch"
                reason = f"stopped by {name}: {advice}"
            elif isinstance(error, UsageError):
                status = 2
            print(f"main.py: {reason}", file=sys.stderr)
            return status


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def show_log(quiet: bool) -> Iterator[None]:
    """Print the package's log lines, or its warnings only."""
    handler = _Handler(sys.stdout)
    level, formatwarning = logger.level, warnings.formatwarning
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    banner = "*" * 80
    warnings.formatwarning = lambda text, *_, **__: f"\n{banner}\nWARNING: {text}\n{banner}\n\n"
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        warnings.formatwarning = formatwarning


class _Handler(logging.StreamHandler):
    """Print above the progress bar, and let the run fail if its output can't be written."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        raise


def epoch_bar(batches: Any, title: str) -> tqdm:
    """Show a bar over the batches of an epoch on a terminal, but not for one of several jobs."""
    hidden = not logger.isEnabledFor(logging.INFO) or multiprocessing.parent_process() is not None
    return tqdm(batches, title, leave=False, disable=True if hidden else None)


@contextlib.contextmanager
def _interrupted_by_signals(received: list[int]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a ``KeyboardInterrupt``; a second one ends the process.

    Only the main thread can be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt

    handlers = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
