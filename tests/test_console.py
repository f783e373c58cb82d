"""What the console shows: one-line errors, exit statuses, log lines, progress bars."""

import io
import logging
import os
import signal
import sys

import pytest
import torch
from tqdm import tqdm

import main
from cvae.experiment.console import exit_status, show_log
from cvae.experiment.options import Config
from cvae.files import DataError, FileError, ModelError, RunError, UsageError
from cvae.optimizer import TrainingError

logger = logging.getLogger("cvae")


def raising(error: BaseException):
    def run(_: Config) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UsageError("not\n  so"), 2, "not so"),
        (OSError("no\nroom"), 1, "no room"),
        (MemoryError(), 1, "MemoryError"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), 1, "CUDA out of memory"),
        (DataError("it failed"), 1, "it failed"),
        (FileError("it failed"), 1, "it failed"),
        (ModelError("it failed"), 1, "it failed"),
        (RunError("it failed"), 1, "it failed"),
        (TrainingError("it failed"), 1, "it failed"),
    ],
)
def test_failure_is_one_line_and_a_status(capsys, error, status, line):
    assert exit_status(raising(error), Config()) == status
    assert capsys.readouterr().err == f"main.py: error: {line}\n"
    assert exit_status(raising(error), Config(debug=True)) == status
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith(f"main.py: error: {line}\n")


def test_memory_that_ran_out_on_the_cpu_is_one_line(capsys):
    assert exit_status(lambda _: print(torch.empty(10**15)), Config()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("main.py: error: ") and "you tried to allocate 4000000000000000" in line


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), ValueError(), LookupError()])
def test_mistakes_in_the_code_keep_their_traceback(capsys, error):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert exit_status(lambda _: None, Config()) == 0
    with pytest.raises(type(error)) as failure:
        exit_status(raising(error), Config())
    assert failure.value is error and failure.traceback[-1].name == "run"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_run_whatever_a_library_makes_of_it(capsys, number):
    def run(_: Config) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as error:
            raise LookupError("a callback failed") from error

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert exit_status(run, Config(overwrite=True)) == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    (line,) = capsys.readouterr().err.splitlines()
    assert f"main.py: stopped by {number.name}: the same command without --overwrite " in line


@pytest.mark.parametrize("quiet", [True, False])
def test_lines_stand_above_a_bar(monkeypatch, quiet):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    with show_log(quiet), tqdm(range(3), "epoch 1", disable=None) as bar:
        for _ in bar:
            logger.info("a line")
            logger.warning("a warning")
    written = stream.getvalue()
    assert "epoch 1:" in written and written.count("a warning\n") == 3
    assert written.count("a line\n") == (0 if quiet else 3)
    for line in written.split("\n"):
        if line.endswith(("a line", "a warning")):  # after the bar was wiped
            assert line.rpartition("\r")[2] in ("a line", "a warning")


def test_output_that_can_not_be_written_ends_the_run(tmp_path, monkeypatch, capsys):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        words = f"--dataset mnist-5k --subset 40 -n 1 -nq 3 --output-dir {tmp_path}"
        assert main.main(words.split()) == 1
        monkeypatch.undo()
        with pytest.raises(OSError):
            full.close()
    assert capsys.readouterr().err == "main.py: error: [Errno 28] No space left on device\n"
