"""Start small runs of the program quickly, each in a process group of its own, and compare what they leave."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import cvae.evaluate  # noqa: F401  so that no child has to import it
import cvae.figures.figures
import cvae.train  # noqa: F401
import main
from cvae.images.sources import load_images

# Figures of few dots and samples, which take less time.
COARSE = {"DPI": 40, "NUM_DIVERSITY_SAMPLES": 20}
SMALL = "--dataset mnist-5k --subset 400 -n 6 -p 2 --num-importance-samples 8 -vi 3 -vs 2 -nq 1 3".split()


class Child:
    """``main.py`` with a command line, in a copy of this process that leads a process group.

    Args:
        words: the command line.
        log: file for what it prints.
        first: called in the child before it starts.
    """

    def __init__(
        self, words: list[str], log: Path, first: Callable[[], None] = lambda: None
    ) -> None:
        torch.set_num_threads(1)  # a copy of a process has none of its threads
        load_images("mnist-5k", "", True, False)
        self.log = log
        log.write_bytes(b"")
        self.start = time.monotonic()
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            with open(log, "wb", buffering=0) as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                status = 70
                with contextlib.suppress(BaseException):
                    vars(cvae.figures.figures).update(COARSE)
                    first()
                    status = main.main(words)
                os._exit(status)

    def wait(self) -> int:
        """Return the exit status, or minus the number of the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds, and tell whether the child still runs."""
        while not condition():
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(code)
                return False
            time.sleep(0.002)
        return True

    def kill(self) -> bool:
        """Kill it if it still runs, and tell whether it did."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def wait_for_others(self) -> bool:
        """Wait until the processes that it has started have ended too, and tell whether they did within 20 seconds."""
        return end_of_group(self.pid)

    def printed(self) -> str:
        return self.log.read_text(errors="replace")


def end_of_group(group: int) -> bool:
    """Wait until no process of a process group runs any more, and tell whether it came to that within 20 seconds."""
    end = time.monotonic() + 20
    while others := _processes_of_group(group):
        if time.monotonic() > end:
            print(f"left behind: {others}")
            return False
        time.sleep(0.01)
    return True


def _processes_of_group(group: int) -> list[int]:
    """The processes of a process group that still run."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [
        int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """All files but the checkpoints, byte for byte, and of ``metrics.json`` all but the times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(entry) for key, entry in value.items() if "seconds" not in key}
        return [timeless(entry) for entry in value] if isinstance(value, list) else value

    found: dict[str, Any] = {
        path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.suffix != ".pt"
    }
    return {**found, "metrics.json": timeless(json.loads(found["metrics.json"]))}
