"""The console: log lines, one-line errors, exit statuses, signals."""

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

import torch
from tqdm import tqdm

from cvae.experiment.options import Config
from cvae.files import CVAEError, UsageError

__all__ = ["exit_status", "is_expected", "one_line", "run_command", "show_log"]

logger = logging.getLogger("cvae")

EXPECTED_ERRORS = (CVAEError, OSError, MemoryError, torch.cuda.OutOfMemoryError)


def exit_status(run: Callable[[Config], None], config: Config) -> int:
    """Run, report an expected error or an interruption in one line, leave the process as it was.

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
        stack.enter_context(_replace_unprintable())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))  # with gradients, too
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        try:
            with _interrupted_by_signals(received):
                run(config)
            return 0
        except BaseException as error:
            if not (received or is_expected(error)):
                raise
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


def run_command(name: str, command: Callable[[], None]) -> int:
    """Run another command than main.py, and return its exit status: 1 after an expected error."""
    try:
        with _replace_unprintable():
            command()
        return 0
    except Exception as error:
        if not is_expected(error):
            raise
        print(f"{name}: error: {one_line(error)}", file=sys.stderr)
        return 1


def is_expected(error: BaseException) -> bool:
    """Whether the message of an error is enough; any other shows where in the code it is."""
    # For the memory of a CPU or of an Apple GPU, PyTorch raises a plain RuntimeError.
    words = ("DefaultCPUAllocator", "out of memory")
    no_memory = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return no_memory or isinstance(error, EXPECTED_ERRORS)


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _replace_unprintable() -> Iterator[None]:
    """Let the standard output show ``?`` for what its encoding lacks, rather than fail."""
    errors = getattr(sys.stdout, "errors", None)
    reconfigure = getattr(sys.stdout, "reconfigure", lambda **_: None)  # a notebook's has none
    reconfigure(errors="replace")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):  # what is left can't be written: told before
            reconfigure(errors=errors)


@contextlib.contextmanager
def show_log(quiet: bool) -> Iterator[None]:
    """Print the package's log lines, or its warnings only, and once where others log too."""
    handler = _Handler(sys.stdout)
    level, propagate, formatwarning = logger.level, logger.propagate, warnings.formatwarning
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    banner = "*" * 80
    warnings.formatwarning = lambda text, *_, **__: f"\n{banner}\nWARNING: {text}\n{banner}\n\n"
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        warnings.formatwarning = formatwarning


class _Handler(logging.StreamHandler):
    """Print above the progress bar, and let the run fail if its output can't be written."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        raise


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
        for other in signals:
            signal.signal(other, signal.SIG_DFL)
        raise KeyboardInterrupt

    handlers = {signum: signal.signal(signum, interrupt) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
