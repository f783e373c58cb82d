"""A short part of the fault tests; ``python -m tests.faults`` runs all of them."""

import subprocess
import sys
from pathlib import Path


def test_killed_runs_come_to_the_same_end():
    command = [sys.executable, "-m", "tests.faults.kills", "--kills", "1"]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
