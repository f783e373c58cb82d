"""Child processes that call functions of this process, and end with it."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from cvae.errors import UsageError

__all__ = ["Children", "Parent", "start_fork_server"]

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"  # as on Windows
PRELOADED = ["torch", "torchvision", "pyro.infer", "pandas", "matplotlib.figure"]


def start_fork_server() -> None:
    """Start the process that children are forked from, which imports the slow packages while this one goes on.

    Ctrl-C, which a terminal sends to all processes, does not reach it.
    """
    if METHOD == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        resource_tracker.ensure_running()  # first, as it unblocks the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


class Parent:
    """The parent process, in a child: what it answers can be called here by name."""

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


class Children:
    """Child processes, each looked after by a thread of this process, and all ended at once if need be."""

    def __init__(self) -> None:
        self.context: Any = multiprocessing.get_context(METHOD)
        self.processes: list[Any] = []
        self.killed = False
        self.lock = threading.Lock()

    def run(self, function: Callable[..., None], arguments: tuple[Any, ...], answers: Mapping[str, Any]) -> None:
        """Run a function in a new child and wait for its end.

        Args:
            function: of a module, called with a :class:`Parent` and the arguments.
            arguments: can be pickled.
            answers: functions of this process by name, which the child may call.

        Raises:
            RuntimeError: the function failed, with the message of its error, or the child was killed.
        """
        here, there = self.context.Pipe()
        child = self.context.Process(target=_begin, args=(there, function, arguments), daemon=True)
        with self.lock:  # starting one also asks how others have ended, which must not be asked twice at once
            child.start()
        there.close()
        self.processes.append(child)
        try:
            if self.killed:
                child.kill()
            for name, values in _calls(here):
                if name == "fail":
                    raise RuntimeError(*values)
                with self.lock:
                    answer = answers[name](*values)
                with contextlib.suppress(ConnectionError):
                    here.send(answer)
            wait([child.sentinel])
            with self.lock:
                child.join()
            if child.exitcode < 0:
                raise RuntimeError(f"its process was ended by {signal.Signals(-child.exitcode).name}")
            if child.exitcode:
                raise RuntimeError("its process failed, see its message")
        finally:
            child.kill()

    def kill(self) -> None:
        """End all children, also one that is about to begin."""
        self.killed = True
        for child in self.processes:
            child.kill()


def _calls(connection: Connection) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Return the calls of a child until it ends."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            yield connection.recv()


def _begin(connection: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run the function in this process, a child."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    parent = Parent(connection)
    try:
        function(parent, *arguments)
    except (OSError, RuntimeError, MemoryError, UsageError) as error:
        parent.fail(str(error) or type(error).__name__)


def _end_with_parent() -> NoReturn:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
