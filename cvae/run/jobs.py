"""Several settings side by side, each in a process of its own, with one display for all of them."""

import logging
import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from logging.handlers import QueueHandler
from typing import Any

import torch
from tqdm import tqdm

from cvae.run.children import Children
from cvae.run.preparation import Checkpoints, choose_device, run_name
from cvae.run.results import write_tables
from cvae.run.settings import Settings
from cvae.storage.checkpoint import Checkpoint
from cvae.training.forecast import Forecast
from cvae.training.progress import Progress

__all__ = ["run_side_by_side"]

logger = logging.getLogger("cvae")


def run_side_by_side(
    run_setting: Callable[..., None], settings: Settings, checkpoints: Checkpoints, forecast: Forecast
) -> None:
    """Run every setting with every seed, ``settings.jobs`` of them at a time.

    They have a process each, and share the threads of PyTorch and the GPUs; the last ones, if they are fewer, have more
    threads.  One that fails is reported, and does not stop the others.  If this process ends, they all do.

    Args:
        run_setting: that of ``main.py``, which runs in the other processes.
        settings: of the run.
        checkpoints: of all settings and seeds; each is loaded again when its setting is evaluated.
        forecast: of the whole command.

    Raises:
        RuntimeError: some of them have failed.
    """
    jobs = settings.jobs or 1
    runs = list(settings.runs())
    rest = len(runs) % jobs
    places: queue.SimpleQueue[int] = queue.SimpleQueue()  # the GPU of each process, where there are GPUs
    for place in range(jobs):
        places.put(place)
    display, children = _Display(settings, forecast), Children()

    def run_in_child(seed: int, n: int) -> None:
        checkpoint = checkpoints[seed][n]

        def write() -> None:
            checkpoint.reload()
            write_tables(settings, seed, checkpoints[seed])

        at_a_time = rest if (seed, n) in runs[len(runs) - rest :] else jobs
        threads = max(1, torch.get_num_threads() // at_a_time)
        place = places.get()
        try:
            job = run_setting, settings, seed, n, replace(checkpoint, parts={}), threads, place, logger.level
            children.run(_run_job, job, display.answers | {"write_tables": write})
        finally:
            places.put(place)

    failed = []
    with display.bar, ThreadPoolExecutor(jobs) as executor:
        try:
            names = {executor.submit(run_in_child, *each): run_name(settings, *each) for each in runs}
            pending = set(names)
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                display.bar.refresh()
                for future in done:
                    if error := future.exception():
                        failed.append(names[future])
                        logger.error("%s: failed, which stops no other setting: %s", failed[-1], error)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            children.kill()
            raise
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(names)} settings failed, see above: {'; '.join(sorted(failed))}")


class _Display:
    """The forecast and the log lines of all processes, and on a terminal a bar."""

    def __init__(self, settings: Settings, forecast: Forecast) -> None:
        self.forecast = forecast
        self.bar = tqdm(
            total=forecast.tasks_left(),
            desc=f"{settings.jobs} settings at a time",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            leave=False,
            disable=None if logger.isEnabledFor(logging.INFO) else True,  # None: unless this is a terminal
        )
        self.answers: dict[str, Callable[..., Any]] = {
            "handle": logger.handle,
            "record": forecast.record,
            "drop": forecast.drop,
            "time_left": self._time_left,
        }

    def _time_left(self) -> list[str]:
        self.bar.n = self.bar.total - self.forecast.tasks_left()
        self.bar.set_postfix_str(", ".join(self.forecast.time_left()))
        return self.forecast.time_left()


def _run_job(
    parent: Any,
    run_setting: Callable[..., None],
    settings: Settings,
    seed: int,
    n: int,
    checkpoint: Checkpoint,
    threads: int,
    place: int,
    level: int,
) -> None:
    """Run a setting in this process, a child."""
    tqdm.set_lock(threading.RLock())  # its usual one is shared by processes, and would outlive this one
    torch.set_num_threads(threads)
    if choose_device(settings.device).type == "cuda":
        torch.cuda.set_device(place % torch.cuda.device_count())
    logger.addHandler(_Forwarder(parent))
    logger.setLevel(level)
    progress = Progress(run_name(settings, seed, n), parent, bar=False)
    try:
        checkpoint.reload()
        run_setting(settings, seed, n, checkpoint, progress, parent.write_tables)
    except Exception:
        if settings.debug:
            traceback.print_exc()
        raise


class _Forwarder(QueueHandler):
    """Log in the parent process."""

    def enqueue(self, record: logging.LogRecord) -> None:
        parent: Any = self.queue
        parent.handle(record)
