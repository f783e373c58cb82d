"""A short part of the fault tests; ``python -m tests.faults`` runs all of them."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("words", [["kills", "--kills", "3"], ["two_runs"]])
def test_short_part_of_the_fault_tests(words):
    subprocess.run(
        [sys.executable, "-m", f"tests.faults.{words[0]}", *words[1:]],
        cwd=Path(__file__).parents[1],
        check=True,
    )
