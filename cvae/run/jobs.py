"""Several settings side by side, each in a process of its own, with one display for all of them."""

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from cvae.errors import UsageError
from cvae.run.preparation import Checkpoints, run_name
from cvae.run.results import write_tables
from cvae.run.settings import Settings
from cvae.storage.checkpoint import Checkpoint
from cvae.training.forecast import Forecast
from cvae.training.progress import Progress

__all__ = ["run_side_by_side"]

logger = logging.getLogger("cvae")

# A fork server imports the slow packages once for all processes; Windows has none.
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PRELOADED = ["torch", "torchvision", "pyro.infer", "pandas", "matplotlib.figure"]


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
    display, children = _Display(settings, forecast), _Children()

    def run_in_child(seed: int, n: int) -> None:
        checkpoint = checkpoints[seed][n]

        def write() -> None:
            checkpoint.reload()
            write_tables(settings, seed, checkpoints[seed])

        at_a_time = rest if (seed, n) in runs[len(runs) - rest :] else jobs
        threads = max(1, torch.get_num_threads() // at_a_time)
        place = places.get()
        try:
            job = settings, seed, n, replace(checkpoint, parts={})
            children.run((run_setting, job, threads, place, logger.level), display.answers | {"write_tables": write})
        finally:
            places.put(place)

    failed = []
    with display.bar, ThreadPoolExecutor(jobs, initializer=_block_interrupts) as executor:
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


class _Children:
    """Processes that run settings, and can all be ended at once."""

    def __init__(self) -> None:
        self.context: Any = multiprocessing.get_context(METHOD)
        self.processes: list[Any] = []
        self.killed = False
        self.lock = threading.Lock()  # one call at a time
        if METHOD == "forkserver":
            self.context.set_forkserver_preload(PRELOADED)

    def run(self, job: tuple[Any, ...], answers: Mapping[str, Callable[..., Any]]) -> None:
        """Run a job in a new process, and answer its calls until it ends.

        Raises:
            RuntimeError: it failed.
        """
        here, there = self.context.Pipe()
        process = self.context.Process(target=_run_job, args=(there, *job), daemon=True)
        process.start()
        there.close()
        self.processes.append(process)
        try:
            if self.killed:
                process.kill()
            for name, arguments in _calls(here):
                if name == "fail":
                    raise RuntimeError(*arguments)
                with self.lock:
                    answer = answers[name](*arguments)
                with contextlib.suppress(ConnectionError):
                    here.send(answer)
            process.join()
            if process.exitcode:
                raise RuntimeError(f"its process ended with exit status {process.exitcode}")
        finally:
            process.kill()

    def kill(self) -> None:
        """End all processes."""
        self.killed = True
        for process in self.processes:
            process.kill()


def _calls(connection: Connection) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Return the calls of a process until it ends."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            yield connection.recv()


def _run_job(
    connection: Connection,
    run_setting: Callable[..., None],
    job: tuple[Settings, int, int, Checkpoint],
    threads: int,
    place: int,
    level: int,
) -> None:
    """Run one setting in this process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _block_interrupts()
    tqdm.set_lock(threading.RLock())  # its usual one is shared by processes, and would outlive this one
    settings, seed, n, checkpoint = job
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    parent: Any = _Parent(connection)
    logger.addHandler(_Forwarder(parent))
    logger.setLevel(level)
    try:
        checkpoint.reload()
        progress = Progress(run_name(settings, seed, n), parent, bar=False)
        run_setting(settings, seed, n, checkpoint, progress, parent.write_tables)
    except (OSError, RuntimeError, MemoryError, UsageError) as error:
        if settings.debug:
            traceback.print_exc()
        parent.fail(str(error) or type(error).__name__)


class _Parent:
    """Functions of the parent process, which can be called here by their names."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                self.connection.send((name, arguments))
                return self.connection.recv()
            except (EOFError, OSError):  # the parent has ended
                os._exit(1)

        return call


class _Forwarder(QueueHandler):
    """Log in the parent process."""

    def enqueue(self, record: logging.LogRecord) -> None:
        parent: Any = self.queue
        parent.handle(record)


def _end_with_parent() -> NoReturn:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _block_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the main thread of the parent process."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
