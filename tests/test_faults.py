"""A short part of the fault tests; the long one is ``python -m tests.faults``."""

import subprocess
import sys

from .faults import ROOT


def test_killed_runs_come_to_the_same_end():
    command = [sys.executable, "-m", "tests.faults", "--kills", "1", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
