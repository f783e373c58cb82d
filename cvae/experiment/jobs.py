"""Runs side by side, each in a process of its own: ``main.py --child``."""

import contextlib
import json
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from subprocess import PIPE, Popen
from typing import NoReturn

import torch
from tqdm import tqdm

from cvae import distributed
from cvae.experiment.console import is_expected, one_line
from cvae.experiment.folder import check_code
from cvae.experiment.options import Config, Run
from cvae.files import UsageError

__all__ = ["CHILD", "choose_jobs", "run_child", "run_side_by_side"]

logger = logging.getLogger("cvae")

CHILD = "--child"  # the whole command line of a child
SIGNALS = [signal.SIGINT, signal.SIGTERM]
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds in a period of so many, or max

Records = SimpleQueue[tuple[str, logging.LogRecord | None]]  # by the name of the run


def choose_jobs(config: Config, device: torch.device) -> int:
    """Return how many runs to do at a time, at most as many as there are.

    Raises:
        UsageError: under ``torchrun``, whose processes work on each run together.
    """
    if config.jobs == 1:
        return 1
    if distributed.world_size() > 1:
        raise UsageError("--jobs is for a single process: start main.py without torchrun")
    gpus = torch.cuda.device_count() if device.index is None else 1
    processors = {"cpu": usable_cores(), "cuda": gpus}
    return min(config.jobs or processors.get(device.type, 1), len(config.runs()))


def usable_cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and its container's quota."""
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    cores = len(affinity(0))
    with contextlib.suppress(OSError, ValueError):  # of other systems, or without a quota
        quota, period = CPU_QUOTA.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def run_side_by_side(config: Config, num_jobs: int, program: str) -> list[str]:
    """Do every run in a process of its own, so many at a time.

    They share the threads of PyTorch and the GPUs; the last ones, if they are fewer, have more
    threads.  One that fails or is killed is reported, and the others continue.  If this process
    ends, all end.

    Args:
        config: of the command.
        num_jobs: how many runs at a time.
        program: path of a script that calls :func:`run_child` if its only argument is ``CHILD``.

    Returns:
        The names of those that have failed.
    """
    runs = config.runs()
    last = len(runs) - len(runs) % num_jobs  # from here on, fewer run side by side
    waiting = list(enumerate(runs))
    free = list(range(num_jobs))  # one place, and so one GPU, for each job
    running: dict[str, tuple[Popen, int]] = {}
    records: Records = SimpleQueue()
    failed = []
    try:
        while waiting or running:
            while waiting and free:
                (number, run), place = waiting.pop(0), free.pop(0)
                at_a_time = len(runs) - last if number >= last else num_jobs
                threads = max(1, torch.get_num_threads() // at_a_time)
                # A child starts as a whole, and with Ctrl-C blocked, which reaches all processes.
                with _blocked_signals():
                    running[run.name] = _start(program, run, threads, place, records), place
            try:
                name, record = records.get(timeout=1)  # on Windows, Ctrl-C is seen after it
            except Empty:
                continue
            if record:
                logger.handle(record)
                continue
            process, place = running.pop(name)
            free.append(place)
            if code := process.returncode:
                failed.append(name)
                cause = f": ended by {signal.Signals(-code).name}" if code < 0 else ""
                logger.error("%s: failed%s; other runs continue", name, cause)
    finally:
        for process, _ in running.values():
            process.kill()
        for process, _ in running.values():
            process.wait()
    return sorted(failed)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Let ``SIGNALS`` wait, where a system can do that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(program: str, run: Run, threads: int, place: int, records: Records) -> Popen:
    """Start a process for a run, and a thread that queues what it logs."""
    # The paths come by the environment, as its imports come before it can read the pipe.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    process = Popen([sys.executable, program, CHILD], env=environment, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    run = replace(run, config=replace(run.config, quiet=True))  # no bars, which would overlap
    with contextlib.suppress(OSError):  # one that has ended already is reported as any other
        process.stdin.write(pickle.dumps((run, threads, place, logger.level)))
        process.stdin.flush()
    threading.Thread(target=_follow, args=(process, run.name, records), daemon=True).start()
    return process


def _follow(process: Popen, name: str, records: Records) -> None:
    """Queue what a process logs, and None after its end."""
    # It may have ended before it read all that was written to it: then closing the pipe fails.
    try:
        with contextlib.suppress(OSError), process:
            for line in process.stdout or ():
                with contextlib.suppress(ValueError, TypeError):  # no record, or half of one
                    records.put((name, logging.makeLogRecord(json.loads(line))))
    finally:
        records.put((name, None))


def run_child(train: Callable[[Run], None]) -> int:
    """Do the run that comes on the standard input, log in the parent, return the exit status."""
    try:
        if sys.stdin.isatty():
            raise EOFError
        run, threads, place, level = pickle.load(sys.stdin.buffer)
    except Exception:  # whatever bytes that are no pickle lead to
        print(f"main.py: error: {CHILD} is only for processes that --jobs starts", file=sys.stderr)
        return 2
    # The pipes move, so that what a model prints does not get between the records, and nothing but
    # the thread waits for input; on Windows, even loading a library can (numpy's issue 24290).
    parent, log = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    tqdm.set_lock(threading.RLock())  # its usual one would outlive a process that is killed
    logger.addHandler(_PipeHandler(open(log, "w")))  # type: ignore[arg-type]
    logger.setLevel(level)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        _, _, index = run.config.device.partition(":")
        torch.cuda.set_device(int(index or place % torch.cuda.device_count()))
    try:
        check_code(run.config, train)
        train(run)
    except Exception as error:
        if not is_expected(error):
            raise
        if run.config.debug:
            traceback.print_exc()
        logger.error("%s: error: %s", run.name, one_line(error))
        return 1
    return 0


def _end_with_parent(pipe: int) -> NoReturn:
    """End this process when the parent has ended, and with it its end of a pipe."""
    os.read(pipe, 1)  # which waits for the end, as the parent writes no more
    os._exit(1)


class _PipeHandler(QueueHandler):
    """Log in the parent process, a line for each record."""

    def enqueue(self, record: logging.LogRecord) -> None:
        line = json.dumps(vars(record), default=str)
        with contextlib.suppress(OSError):  # the parent has ended, and this process is about to
            print(line, file=self.queue, flush=True)  # type: ignore[call-overload]
