"""The command line as a guest of a process of somebody else's: a notebook, an editor, a thread."""

import contextlib
import io
import logging
import os
import re
import runpy
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyro
import pytest
import torch
from pyro.infer.util import is_validation_enabled

import main

ROOT = Path(__file__).parents[1]
TINY = "--dataset mnist-5k --subset 40 -n 1 -p 2 --num-importance-samples 3 -vi 3 -vs 2".split()
TINY += ["-nq", "3"]


def surroundings() -> dict[str, Any]:
    """All that a process has in common, but for random numbers."""
    loggers = [logging.getLogger(name) for name in (None, "cvae", "py.warnings")]
    rc = matplotlib.rcParams
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "backend": rc._get("backend"),  # to read it otherwise resolves it
        "matplotlib": {key: value for key, value in rc.copy().items() if key != "backend"},
        "signals": [signal.getsignal(number) for number in signals],
        "loggers": [(list(e.handlers), e.level, e.propagate, e.disabled) for e in loggers],
        "warnings": (warnings.showwarning, warnings.formatwarning, list(warnings.filters)),
        "timeout": socket.getdefaulttimeout(),
        "threads": torch.get_num_threads(),
        "types": (torch.get_default_dtype(), torch.is_grad_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "parameters": dict(pyro.get_param_store().items()),
        "validation": is_validation_enabled(),
        "streams": (sys.stdout, sys.stderr, sys.stdin, sys.excepthook),
    }


def call(words: list[str]) -> int:
    try:
        return main.main(words)
    except SystemExit as error:
        return int(error.code or 0)


def call_in_thread(words: list[str]) -> int:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(call(words)))
    thread.start()
    thread.join()
    return statuses[0]


@pytest.mark.parametrize(
    "caller, more, status",
    [
        (call, [], 0),
        (call_in_thread, [], 0),
        (call, ["--recipe", "none"], 2),
        (call, ["-lr", "1e30", "-n", "2"], 1),
        (call_in_thread, ["-lr", "1e30", "-n", "2"], 1),
        (call, ["--dataset", "mnist", "--data-dir", "{empty}"], 1),
    ],
)
def test_whatever_happens_the_process_is_left_as_it_was(
    tmp_path, monkeypatch, caller, more, status
):
    monkeypatch.setenv("MPLBACKEND", "svg")
    pyro.param("somebody's", torch.ones(3))
    socket.setdefaulttimeout(77)
    pyro.enable_validation(False)
    words = [word.format(empty=tmp_path / "empty") for word in more]
    try:
        before = surroundings()
        assert caller([*TINY, *words, "--output-dir", str(tmp_path / "out")]) == status
        after = surroundings()
    finally:
        socket.setdefaulttimeout(None)
        pyro.enable_validation(True)
    for name, value in before.items():
        assert after[name] == value, name


def test_habits_of_a_process_make_no_difference(tmp_path, monkeypatch):
    """A root handler, doubles, no gradients, a stream of ASCII."""
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
    np.savez(tmp_path / "手写数字.npz", images)
    words = [*TINY[4:], "--dataset", str(tmp_path / "手写数字.npz"), "--output-dir"]
    assert main.main([*words, str(tmp_path / "plain")]) == 0
    handler = logging.StreamHandler(io.StringIO())
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(sys, "stdout", stdout)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            assert main.main([*words, str(tmp_path / "out")]) == 0
            assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
    monkeypatch.undo()
    shown = stdout.buffer.getvalue().decode()
    assert shown.count("3 quadrants: ????.npz training split") == 1 and stdout.errors == "strict"
    assert not handler.stream.getvalue()
    for file in ("cvae_net_q3.pth", "results.csv"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_output_goes_to_whatever_stands_for_the_terminal(tmp_path, monkeypatch):
    """As ``%run main.py`` does in a notebook, where output streams are no files."""
    monkeypatch.setattr(sys, "argv", ["main.py", *TINY, "--output-dir", str(tmp_path)])
    monkeypatch.chdir(ROOT)
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        with pytest.raises(SystemExit) as exit:
            runpy.run_path("main.py", run_name="__main__")
    assert exit.value.code == 0 and "CVAE (Monte Carlo)" in out.getvalue()


def test_readme_shows_how_to_run_in_a_notebook(tmp_path, monkeypatch):
    (call,) = re.findall(r"`(main\.main\(.*?\))`", (ROOT / "README.md").read_text())
    monkeypatch.chdir(tmp_path)
    exec("import main; " + call.replace("--recipe quick", f"{' '.join(TINY)} -nq 1"))
    assert (tmp_path / "results/results.csv").exists()
