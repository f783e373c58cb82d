"""The console: log lines, warnings, interruptions, one-line errors and exit statuses."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

from tqdm import tqdm

from cvae.errors import UsageError
from cvae.run.settings import Settings
from cvae.training.launcher import launched

__all__ = ["exit_status", "log_to_console", "open_closed_streams"]

logger = logging.getLogger("cvae")


def open_closed_streams() -> None:
    """Give closed output streams a file, so that no other file gets their numbers, and let none fail on odd text."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        if reconfigure := getattr(getattr(sys, name), "reconfigure", None):  # those of notebooks have none
            reconfigure(errors="backslashreplace")


def exit_status(run: Callable[[Settings], None], settings: Settings) -> int:
    """Run, report a failure or an interruption in one line, and leave the process as it was before.

    Returns:
        0 if all went well, 1 for a run that failed, 2 for a bad command line, and 128 plus the number of the
        signal that stopped the run.
    """
    received: list[int] = []
    with contextlib.ExitStack() as stack:
        try:
            if launched().rank > 0 and not settings.debug:  # one of torchrun's processes prints for all
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            with _interrupted_by_signals(received):
                run(settings)
            return 0
        except (Exception, KeyboardInterrupt) as error:
            if settings.debug:
                traceback.print_exc()
            if received:  # whatever a library made of the interruption
                without = " without --overwrite" if settings.overwrite else ""
                status, name = 128 + received[0], signal.Signals(received[0]).name
                reason = f"stopped by {name}: the same command{without} resumes after the last finished epoch"
            elif isinstance(error, UsageError):
                status, reason = 2, f"error: {error}"
            elif isinstance(error, (OSError, RuntimeError, MemoryError)):
                status, reason = 1, f"error: {error or type(error).__name__}"
            else:
                raise
            print(f"main.py: {' '.join(reason.split())}", file=sys.stderr)
            return status


@contextlib.contextmanager
def log_to_console(quiet: bool) -> Iterator[None]:
    """Print the package's log lines, with ``quiet`` its warnings only, and in the end how long it took."""
    tqdm.set_lock(threading.RLock())  # its usual one is for several processes, and would outlive a killed one
    handler = _Handler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level_before, format_before = logger.level, warnings.formatwarning
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    banner = "*" * 80
    warnings.formatwarning = lambda message, *_, **__: f"\n{banner}\nWARNING: {message}\n{banner}\n\n"
    start = time.perf_counter()
    try:
        yield
        logger.info("Total time: %s", tqdm.format_interval(time.perf_counter() - start))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
        warnings.formatwarning = format_before


class _Handler(logging.StreamHandler):
    """Print above the progress bar, and let the run fail if its output can't be written, as ``print`` would."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        raise


@contextlib.contextmanager
def _interrupted_by_signals(received: list[int]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into a ``KeyboardInterrupt``; a second one ends the process at once.

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
