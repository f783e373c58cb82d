"""Runs side by side, each in a process of its own."""

import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main
from cvae.distributed import choose_device
from cvae.experiment.jobs import CHILD, choose_jobs, run_side_by_side, usable_cores
from cvae.experiment.options import Config
from cvae.files import UsageError

from .faults import ROOT, end_of_group, processes_of_group, start, written_by

WORDS = "--dataset mnist-5k --subset 100 -esp 50 -p 2 --num-importance-samples 3 -vi 3 -vs 2"
LONG = [*WORDS.split(), "-nq", "1", "3", "-n", "7"]  # enough epochs to be stopped in one of them
SHORT = [*WORDS.split(), "-nq", "2", "3", "-n", "1", "--jobs", "2", "--output-dir", "out"]

# A project of somebody else's, which has a module main and no guard around what it runs.
OWN_MAIN = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("pipeline", sys.argv[1] + "/main.py")
pipeline = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pipeline)
sys.exit(pipeline.main(sys.argv[2:]))
"""
WINDOWS = """
import os, signal, sys
del os.sched_getaffinity, signal.pthread_sigmask, signal.SIGHUP, signal.SIGKILL
open(os.path.join(os.path.dirname(__file__), "processes"), "a").write(sys.orig_argv[-1] + "\\n")
"""
CHATTY_CHILD = """
import logging, os, sys
from cvae.experiment.jobs import run_child
print("an import", flush=True)

def train(run):
    print("a model")
    os.system("cat; echo its program")
    logging.getLogger("cvae").info("%s: %s", run.name, "\u00e9" * 9999)

sys.exit(run_child(train))
"""
FAILING_CHILD = """
import sys, torch
from cvae.experiment.jobs import run_child

def train(run):
    if run.num_quadrant_inputs == 1:
        torch.empty(10**15)
    torch.ones(2, 3) @ torch.ones(2, 3)

sys.exit(run_child(train))
"""


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """Draw coarse figures, also in children."""
    monkeypatch.setattr("cvae.figures.DPI", 40)
    monkeypatch.setattr("cvae.experiment.pictures.NUM_DIVERSITY_SAMPLES", 20)
    coarse = str(ROOT / "tests/faults/coarse.py")
    start = main.run_side_by_side
    monkeypatch.setattr(main, "run_side_by_side", lambda config, n, _: start(config, n, coarse))


@pytest.fixture(autouse=True)
def one_thread():
    """Give both ways of running as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Start two jobs in a folder, and return them once either has begun."""
    processes = []

    def start_both(folder: Path) -> subprocess.Popen:
        words = [*LONG, "--jobs", "2", "--output-dir", str(folder)]
        process = start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        processes.append(process)
        read_until(process, "MNIST-5k training split")
        return process

    yield start_both
    for process in processes:
        process.kill()
        process.wait()


def read_until(process: subprocess.Popen, words: str) -> None:
    assert process.stdout is not None
    while words not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]


def children(process: subprocess.Popen) -> list[int]:
    """Return the processes of both runs, in the order in which they were started."""
    group = processes_of_group(process.pid)
    found = [pid for pid in group if CHILD in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    assert len(found) == 2
    return found


def test_killed_and_failed_runs_cost_no_other_and_resume_to_the_same_files(
    running, tmp_path, capsys
):
    folder = tmp_path / "side by side"
    process = running(folder)
    (folder / "training_q3.csv").mkdir()  # which comes after all results
    read_until(process, "1 quadrant, baseline, epoch 2/")
    os.kill(children(process)[0], signal.SIGKILL)
    out, errors = process.communicate()
    assert process.returncode == 1 and end_of_group(process.pid)
    assert errors == "main.py: error: 2 of 2 runs failed, see above: 1 quadrant; 3 quadrants\n"
    assert out.count("1 quadrant: failed: ended by SIGKILL; other runs continue") == 1
    assert out.count("training_q3.csv (Is a directory)") == 1
    assert (folder / "results.csv").read_text().startswith(",3 quadrants\n")
    (folder / "training_q3.csv").rmdir()
    assert main.main([*LONG, "--jobs", "2", "--output-dir", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("1 quadrant, CVAE, epoch 7/7: ") == 1
    assert "quadrants, baseline, epoch" not in printed  # as these were trained before
    assert printed.count("| NN (baseline) |") == 1
    one_after_another = tmp_path / "whole"
    assert main.main([*LONG, "--output-dir", str(one_after_another)]) == 0
    assert written_by(folder) == written_by(one_after_another)


def test_ctrl_c_ends_all(running, tmp_path):
    """A terminal sends SIGINT to the whole process group."""
    process = running(tmp_path)
    read_until(process, "1 quadrant, baseline, epoch 2/")
    assert children(process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and end_of_group(process.pid)
    advice = "the same command resumes after the last finished epoch"
    assert errors == f"main.py: stopped by SIGINT: {advice}\n"


def test_jobs_need_no_module_named_main_and_nothing_that_windows_lacks(tmp_path):
    (tmp_path / "main.py").write_text(OWN_MAIN)
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)
    done = subprocess.run(
        [sys.executable, "main.py", str(ROOT), *SHORT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "processes").read_text().split() == [SHORT[-1], CHILD, CHILD]
    assert (tmp_path / "out/results.csv").read_text().startswith(",2 quadrants,3 quadrants\n")


def test_what_a_child_prints_goes_to_stderr_and_spoils_no_log_line(tmp_path, caplog, capfd):
    program = tmp_path / "program.py"
    program.write_text(CHATTY_CHILD)
    caplog.set_level(logging.INFO, "cvae")
    assert run_side_by_side(Config(num_quadrant_inputs=(1, 2)), 2, str(program)) == []
    letters = "\u00e9" * 9999
    assert sorted(caplog.messages) == [f"1 quadrant: {letters}", f"2 quadrants: {letters}"]
    out, err = capfd.readouterr()
    assert out == "" and sorted(err.splitlines()) == sorted(2 * ["a model", "its program"])


def test_a_child_shows_where_a_mistake_is_and_its_run_has_failed(tmp_path, caplog, capfd):
    program = tmp_path / "program.py"
    program.write_text(FAILING_CHILD)
    config = Config(num_quadrant_inputs=(1, 2))
    assert run_side_by_side(config, 2, str(program)) == ["1 quadrant", "2 quadrants"]
    failed = "2 quadrants: failed; other runs continue"
    assert [each for each in caplog.messages if "2 quadrants" in each] == [failed]
    assert caplog.text.count("1 quadrant: error: ") == 1
    error = capfd.readouterr().err
    assert error.startswith("Traceback") and error.count("Traceback") == 1
    assert 'program.py", line 8, in train' in error and "RuntimeError: mat1 and mat2" in error


@pytest.mark.parametrize("given", [b"", b"words", b"N."])
def test_a_child_that_no_parent_has_started_is_refused(monkeypatch, capsys, given):
    monkeypatch.setattr(sys, "argv", ["main.py", CHILD])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert main.main() == 2
    refused = "main.py: error: --child is only for processes that --jobs starts\n"
    assert capsys.readouterr().err == refused


@pytest.mark.parametrize(
    "jobs, device, seeds, expected",
    [
        (1, "cpu", (0, 1), 1),
        (9, "cpu", (0, 1), 6),
        (None, "cpu", (0,), 2),
        (None, "cuda", (0, 1), 5),
        (None, "mps", (0,), 1),
    ],
)
def test_jobs_are_those_asked_for_or_as_many_as_processors(
    monkeypatch, jobs, device, seeds, expected
):
    monkeypatch.setattr("cvae.experiment.jobs.usable_cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert choose_jobs(Config(jobs=jobs, seeds=seeds), torch.device(device)) == expected


@pytest.mark.parametrize(
    "affinity, quota, cores",
    [
        (8, None, 8),
        (8, "max 100000", 8),
        (8, "250000 100000", 2),
        (2, "400000 100000", 2),
        (8, "50000 100000", 1),
    ],
)
def test_cores_are_those_that_may_be_used(tmp_path, monkeypatch, affinity, quota, cores):
    """Fewer than the machine has, by affinity or by the quota of a container."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
    monkeypatch.setattr("cvae.experiment.jobs.CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == cores


@pytest.mark.parametrize("jobs", [2, None])
def test_jobs_are_refused_with_torchrun(monkeypatch, jobs):
    monkeypatch.setattr("cvae.distributed.world_size", lambda: 2)
    assert choose_jobs(Config(), torch.device("cpu")) == 1
    with pytest.raises(UsageError, match="^--jobs is for a single process"):
        choose_jobs(Config(jobs=jobs), torch.device("cpu"))


def test_one_gpu_may_be_chosen(monkeypatch):
    """Then ``--jobs auto`` is one job."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices = [choose_device(name) for name in ("cuda:1", "cuda", "auto")]
    assert [choose_jobs(Config(jobs=None), device) for device in devices] == [1, 2, 2]
    with pytest.raises(UsageError, match="--device cuda:2 is absent here"):
        choose_device("cuda:2")
