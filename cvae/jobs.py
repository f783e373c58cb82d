"""Runs side by side, each in a process of its own."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from cvae import distributed
from cvae.config import Config, UsageError
from cvae.console import EXPECTED_ERRORS, one_line

__all__ = ["choose_jobs", "run_side_by_side"]

logger = logging.getLogger("cvae")

SIGNALS = [signal.SIGINT, signal.SIGTERM]
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds in a period of so many, or max


def choose_jobs(config: Config, device: torch.device) -> int:
    """Return how many runs to do at a time, at most as many as there are.

    Raises:
        UsageError: they can't be side by side, as several processes share each of them.
    """
    if config.jobs == 1:
        return 1
    if distributed.world_size() > 1:
        raise UsageError("--jobs is for a single process: start main.py without torchrun")
    processors = {"cpu": usable_cores(), "cuda": torch.cuda.device_count()}
    return min(config.jobs or processors.get(device.type, 1), len(list(config.runs())))


def usable_cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and its container's quota."""
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    cores = len(affinity(0))
    with contextlib.suppress(OSError, ValueError):  # of other systems, or without a quota
        quota, period = CPU_QUOTA.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def run_side_by_side(config: Config, num_jobs: int) -> list[str]:
    """Run every seed with every number of known quadrants, so many at a time.

    Each has a process of its own, and they share the threads of PyTorch and the GPUs; the last
    ones, if they are fewer, have more threads.  One that fails or is killed is reported, and the
    others continue.  If this process ends, all end.

    Args:
        config: of the command.
        num_jobs: how many runs at a time.

    Returns:
        The names of those that have failed.
    """
    runs = list(config.runs())
    last = len(runs) - len(runs) % num_jobs  # from here on, fewer run side by side
    waiting = list(enumerate(runs))
    free = list(range(num_jobs))  # one place, and so one GPU, for each job
    running: dict[Any, tuple[BaseProcess, int, str]] = {}  # by the connection of its log lines
    failed = []
    try:
        while waiting or running:
            while waiting and free:
                (number, (seed, n)), place = waiting.pop(0), free.pop(0)
                at_a_time = len(runs) - last if number >= last else num_jobs
                threads = max(1, torch.get_num_threads() // at_a_time)
                # A child starts as a whole, and with Ctrl-C blocked, which reaches all processes.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
                try:
                    connection, process = _start(config, seed, n, threads, place)
                    running[connection] = process, place, config.run_name(seed, n)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
            log: Any
            for log in wait(list(running)):
                try:
                    record = log.recv()
                except (EOFError, OSError):  # the process has ended
                    process, place, name = running.pop(log)
                    process.join()
                    free.append(place)
                    if code := process.exitcode:
                        failed.append(name)
                        cause = f": ended by {signal.Signals(-code).name}" if code < 0 else ""
                        logger.error("%s: failed%s; other runs continue", name, cause)
                else:
                    logger.handle(record)
    finally:
        for process, _, _ in running.values():
            process.kill()
            process.join()
    return sorted(failed)


def _start(
    config: Config, seed: int, n: int, threads: int, place: int
) -> tuple[Connection, BaseProcess]:
    """Start a process, and return it behind the connection that its log lines come through."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    arguments = there, config, seed, n, threads, place, logger.level
    process = context.Process(target=_run_in_child, args=arguments, daemon=True)
    process.start()
    there.close()  # so that the end of the child is the end of the connection
    return here, process


def _run_in_child(
    log: Connection, config: Config, seed: int, n: int, threads: int, place: int, level: int
) -> None:
    """Do one run in this process, a child."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    tqdm.set_lock(threading.RLock())  # its usual one would outlive a process that is killed
    logger.addHandler(_PipeHandler(log))  # type: ignore[arg-type]
    logger.setLevel(level)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    # By its name, as the main module of a notebook can't be found from here.
    from main import train_and_evaluate

    try:
        train_and_evaluate(config, seed, n)
    except EXPECTED_ERRORS as error:
        if config.debug:
            traceback.print_exc()
        logger.error("%s: error: %s", config.run_name(seed, n), one_line(error))
        os._exit(1)


class _PipeHandler(QueueHandler):
    """Log in the parent process."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(record)  # type: ignore[attr-defined]


def _end_with_parent() -> NoReturn:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
