"""The benchmarks run; nothing is timed here, and test_model.py compares what they compute."""

from pathlib import Path

import pytest

from .perf import compare, time_to_table
from .test_datasets import write_mnist


@pytest.fixture
def mnist_dir(tmp_path):
    """A folder of files in MNIST's format: 60 images to train on, 10 to validate."""
    write_mnist(tmp_path / "MNIST" / "raw", (60, 28, 28), (10, 28, 28))
    return str(tmp_path)


def test_comparisons_run(mnist_dir, monkeypatch, capsys):
    """Also against another checkout, which is this one here, in a process of its own."""
    words = ["--data-dir", mnist_dir, "--images", "60", "--repeats", "1", "--quadrants", "3"]
    compare.main([*words, "--against", str(Path(__file__).parents[1])])
    out = capsys.readouterr().out
    assert out.count("times this package's") == 6 and out.count("the other checkout") == 3
    monkeypatch.setattr(time_to_table, "tutorial", lambda _: [100.0, 200.0])
    monkeypatch.setattr(time_to_table, "whole_command", lambda *_: 50.0)
    time_to_table.main(["--data-dir", mnist_dir, "--jobs", "2"])
    assert "--precision bfloat16 --jobs 2: 50 s, 2.0 to 4.0 times faster" in capsys.readouterr().out


def test_tutorials_time_is_that_of_its_epochs(mnist_dir, monkeypatch):
    monkeypatch.setattr(time_to_table, "seconds", lambda _, task: 2 + 3 * (task == "cvae_epoch"))
    monkeypatch.setattr(time_to_table, "FEWEST_AND_MOST", ((1, 1), (10, 100)))
    assert time_to_table.tutorial(mnist_dir, 60) == [3 * 7, 3 * 520]
