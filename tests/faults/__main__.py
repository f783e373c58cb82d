"""Run all the fault tests, which takes minutes: ``python -m tests.faults``."""

import sys

from . import full_disk, kills, lost_process, two_runs

sys.argv = [sys.argv[0]]
failed = [module.__name__ for module in (kills, full_disk, two_runs, lost_process) if module.main()]
if kills.main(["--jobs", "2", "--kills", "10"]):
    failed.append("kills with two jobs")
raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
