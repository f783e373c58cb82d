"""Kill runs, and compare what the resumed ones leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def written_by(folder: Path) -> dict[str, Any]:
    """Read all files but checkpoints byte for byte; ``metrics.json`` without times and flags."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {key: each for key, each in value.items() if "seconds" not in key}
            return {key: timeless(each) for key, each in kept.items() if key != "arguments"}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    paths = [path for path in folder.rglob("[!.]*") if path.is_file() and path.suffix != ".pt"]
    found: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    for name in found:
        if name.endswith("metrics.json"):
            found[name] = timeless(json.loads(found[name]))
    return found


def start(*words: str, **options: Any) -> subprocess.Popen:
    """Start ``main.py`` with coarse figures and one thread, at the head of a process group."""
    command = [sys.executable, "-u", "-m", "tests.faults.coarse", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, text=True, **options
    )


def end_of_group(group: int, seconds: float = 30) -> bool:
    """Wait until no process of a group runs any more, and tell whether it came to that."""
    end = time.monotonic() + seconds
    while processes_of_group(group):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def processes_of_group(group: int) -> list[int]:
    """Return the processes of a group that run, the oldest first."""
    command = ["ps", "-eo", "pid=,pgid=,stat=", "--sort", "start_time,pid"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, of, state in rows if int(of) == group and state[0] != "Z"]
