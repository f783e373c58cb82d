"""Kill one of two processes that share a run, and continue with the same command, and with one process."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .runs import SMALL

ROOT = Path(__file__).parents[2]
TOGETHER = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    "main.py",
]


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "log")
        words = [*SMALL, "--output-dir", f"{place}/results"]
        lost = _start([*TOGETHER, *words], log)
        while "CVAE, epoch 2" not in log.read_text() and lost.poll() is None:
            time.sleep(0.01)
        os.kill(_last_child(lost.pid), signal.SIGKILL)
        status = lost.wait()
        said = [line for line in log.read_text().splitlines() if line.startswith("main.py: ")]
        print(f"a process was killed; exit status {status}; said: {' / '.join(said) or 'nothing'}")
        shutil.copytree(f"{place}/results", f"{place}/copied")
        fine = _resumes([*TOGETHER, *words], "the same command", log)
        fine &= _resumes(
            [sys.executable, "main.py", *SMALL, "--output-dir", f"{place}/copied"],
            "one process",
            log,
        )
        return int(not (status and len(said) == 1 and fine))


def _resumes(command: list[str], name: str, log: Path) -> bool:
    """Run to the end, and tell whether that was a continuation."""
    status = _start(command, log).wait()
    fine = status == 0 and "1 quadrant, CVAE: resumed after epoch" in log.read_text()
    print(f"{name}: exit status {status}, {'resumed and finished' if fine else log.read_text()}")
    return fine


def _start(command: list[str], log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )


def _last_child(pid: int) -> int:
    """The process that torchrun started last."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return max(map(int, found.stdout.split()))


if __name__ == "__main__":
    raise SystemExit(main())
