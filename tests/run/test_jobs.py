import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import main
from cvae.run.children import start_fork_server
from cvae.run.jobs import _run_job, run_side_by_side
from cvae.run.preparation import Checkpoints, make_forecast
from cvae.run.settings import Settings
from cvae.storage.checkpoint import Checkpoint

from ..faults.runs import end_of_group, outcome
from ..training.test_progress import Terminal

ROOT = Path(__file__).parents[2]
TINY = "--dataset mnist-5k --subset 40 -n 2 -p 2 --num-importance-samples 3 -vi 3 -vs 2".split()


@pytest.fixture(scope="module", autouse=True)
def fork_server():
    start_fork_server()


def run_all(run_setting, folder, jobs=2, **others):
    settings = Settings(jobs=jobs, output_dir=folder, num_epochs=2, **others)
    checkpoints: Checkpoints = {seed: {} for seed in settings.seeds}
    for seed, n in settings.runs():
        checkpoints[seed][n] = Checkpoint(folder / f"checkpoint_{seed}_{n}.pt", {"n": n})
    run_side_by_side(run_setting, settings, checkpoints, make_forecast(settings))


# These run in other processes.


def train_two_epochs(settings, seed, n, checkpoint, progress, write_tables):
    for net in ("baseline", "CVAE"):
        for _ in range(2):
            progress.record(net, 60.0)
    progress.log(f"{torch.get_num_threads()} threads, {', '.join(progress.forecast.time_left())}")
    checkpoint.save(part=[seed, n])


def fail_with_two_quadrants(settings, seed, n, *others):
    if n == 2:
        raise OSError("the disk is full")
    train_two_epochs(settings, seed, n, *others)


def die_with_two_quadrants(settings, seed, n, *others):
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    train_two_epochs(settings, seed, n, *others)


def fall_over_with_two_quadrants(settings, seed, n, *others):
    if n == 2:
        raise ZeroDivisionError("a mistake in the code, whose traceback the process prints")
    train_two_epochs(settings, seed, n, *others)


def wait_for_ever(settings, seed, n, checkpoint, progress, write_tables):
    checkpoint.save(part=os.getpid())
    os.kill(os.getpid(), signal.SIGINT)  # a terminal sends it to all processes
    if n == 1:
        os.kill(settings.num_images, signal.SIGINT)
    time.sleep(600)


def saved(folder):
    return sorted(tuple(Checkpoint.load(path).parts["part"]) for path in folder.glob("*.pt"))


def test_threads_are_divided_and_there_is_one_forecast(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "cvae"):
        run_all(train_two_epochs, tmp_path, seeds=(0, 1))
    runs = [(seed, n) for seed in (0, 1) for n in (1, 2, 3)]
    names = [f"{n} quadrant{'s' * (n > 1)}, seed {seed}" for seed, n in runs]
    assert sorted(line.split(":")[0] for line in caplog.messages) == sorted(names)
    assert all(
        f": {max(1, torch.get_num_threads() // 2)} threads, at most " in line
        for line in caplog.messages
    )
    # What is left are six evaluations, two at a time; each takes 8 baseline epochs of 24 s, by what has been measured.
    assert any(line.endswith("at most 11:12 left") for line in caplog.messages)
    assert saved(tmp_path) == runs


def test_last_one_has_all_threads(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "cvae"):
        run_all(train_two_epochs, tmp_path)
    threads = {int(line[0]): int(line.split(": ")[1].split()[0]) for line in caplog.messages}
    half = max(1, torch.get_num_threads() // 2)
    assert threads == {1: half, 2: half, 3: torch.get_num_threads()}


@pytest.mark.parametrize(
    "run_setting, reason",
    [
        (fail_with_two_quadrants, "the disk is full"),
        (die_with_two_quadrants, "its process was ended by SIGKILL"),
        (fall_over_with_two_quadrants, "its process failed, see its message"),
    ],
)
def test_one_that_fails_is_named_once_and_the_others_finish(tmp_path, caplog, run_setting, reason):
    with pytest.raises(RuntimeError, match="^1 of 3 settings failed, see above: 2 quadrants$"):
        run_all(run_setting, tmp_path)
    assert [
        record.getMessage() for record in caplog.records if record.levelno == logging.ERROR
    ] == [f"2 quadrants: failed, which stops no other setting: {reason}"]
    assert saved(tmp_path) == [(0, 1), (0, 3)]


def test_interruption_ends_all_and_begins_no_more(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        run_all(wait_for_ever, tmp_path, num_images=os.getpid())
    signal.signal(signal.SIGINT, before)
    pids = [Checkpoint.load(path).parts["part"] for path in tmp_path.glob("*.pt")]
    assert 1 <= len(pids) <= 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]


def test_output_that_can_not_be_written_to_ends_all(tmp_path, monkeypatch, caplog):
    def handle(record):
        raise BrokenPipeError("nobody reads")

    monkeypatch.setattr(logging.getLogger("cvae"), "handle", handle)
    with caplog.at_level(logging.INFO, "cvae"), pytest.raises(BrokenPipeError):
        run_all(train_two_epochs, tmp_path)
    assert saved(tmp_path) == []


@pytest.mark.parametrize("level, shown", [("INFO", True), ("WARNING", False)])
def test_terminal_shows_one_bar_with_the_time_left(tmp_path, monkeypatch, caplog, level, shown):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with caplog.at_level(level, "cvae"):
        run_all(train_two_epochs, tmp_path)
    assert (
        "2 settings at a time:" in stream.getvalue() and "at most" in stream.getvalue()
    ) == shown
    assert bool(caplog.messages) == shown


def test_gpus_are_divided(tmp_path, monkeypatch):
    chosen: list[int] = []
    logger = logging.getLogger("cvae")
    monkeypatch.setattr("cvae.run.jobs.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(logger, "handlers", [])
    for device in ("cuda", "cpu"):
        job = (
            Settings(device=device),
            0,
            1,
            Checkpoint(tmp_path / "absent.pt", {}),
            torch.get_num_threads(),
        )
        for place in range(4):
            _run_job(SimpleNamespace(write_tables=None), lambda *_: None, *job, place, logger.level)
    assert chosen == [0, 1, 0, 1]


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    folder = tmp_path_factory.mktemp("side_by_side")
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(folder), "--jobs", "2"]) == 0
    return folder


def test_files_are_those_of_one_after_another(side_by_side, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(tmp_path), "--jobs", "1"]) == 0
    torch.set_num_threads(threads)
    assert outcome(side_by_side) == outcome(tmp_path)


def test_killed_run_leaves_no_process_and_goes_on(side_by_side, tmp_path):
    words = [*TINY, "-nq", "1", "3", "--output-dir", str(tmp_path), "--jobs", "2"]
    command = [sys.executable, "main.py", *words]
    run = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stdout is not None
    while "epoch 1" not in (line := run.stdout.readline()):
        assert line
    run.kill()
    run.communicate()
    assert end_of_group(run.pid)
    assert main.main(words) == 0
    assert outcome(tmp_path) == outcome(side_by_side)


def test_figure_that_can_not_be_written_costs_no_other_setting(side_by_side, tmp_path, capsys):
    words = [*TINY, "-nq", "1", "3", "--output-dir", str(tmp_path), "--jobs", "2"]
    for n in (1, 3):
        (tmp_path / f"checkpoint_q{n}.pt").write_bytes(
            (side_by_side / f"checkpoint_q{n}.pt").read_bytes()
        )
    (tmp_path / "training_q1.csv").mkdir()
    assert main.main(words) == 1
    captured = capsys.readouterr()
    assert captured.err == "main.py: error: 1 of 2 settings failed, see above: 1 quadrant\n"
    assert (
        captured.out.count("can't write") == 1
        and "training_q1.csv (Is a directory)" in captured.out
    )
    assert (tmp_path / "results.md").read_bytes() == (side_by_side / "results.md").read_bytes()
