"""The benchmarks run, and what they compare is the same work; nothing is timed here."""

import re
import subprocess
import sys

import pytest
import torch

from cvae.data import get_data
from cvae.estimators import baseline_nll, log_weights
from cvae.run.command_line import parse_args

from .perf import animation, compare, time_to_table
from .perf.bare_loop import BareLoop
from .perf.package import Package
from .perf.tutorial_way import TutorialWay


def test_comparison_runs(mnist_dir, monkeypatch, capsys):
    words = [
        "compare",
        "--data-dir",
        str(mnist_dir),
        "--images",
        "60",
        "--repeats",
        "1",
        "--without-growth",
    ]
    monkeypatch.setattr(sys, "argv", words)
    compare.main()
    out = capsys.readouterr().out
    for task in (
        "baseline epoch",
        "CVAE epoch",
        "table, 10 particles",
        "importance sampling, 100 particles",
    ):
        assert task in out
    assert out.count("times faster") == 3 and out.count("products alone") == 4


def test_share_of_the_animation_is_told(mnist_dir, monkeypatch, capsys):
    words = ["animation", "--data-dir", str(mnist_dir), "--images", "60", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", words)
    animation.main()
    assert re.match(
        r"frames: \d+\.\d+ s for each epoch, .* %\ngif: .* %\n", capsys.readouterr().out
    )


def test_tutorials_time_is_that_of_its_epochs(mnist_dir, monkeypatch):
    monkeypatch.setattr(
        time_to_table, "timed", lambda epoch: 2.0 if "baseline" in epoch.__name__ else 5.0
    )
    monkeypatch.setattr(time_to_table, "FEWEST_AND_MOST", ((1, 1), (10, 100)))
    assert time_to_table.tutorial(str(mnist_dir), 60) == [3 * 7, 3 * 520]


def test_time_to_the_table_is_that_of_a_whole_command(monkeypatch, tmp_path, capsys):
    commands = []
    monkeypatch.setattr(sys, "argv", ["time_to_table", "--data-dir", str(tmp_path), "--jobs", "2"])
    monkeypatch.setattr(time_to_table, "tutorial", lambda _: [100.0, 200.0])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command[2:]))
    time_to_table.main()
    runs = [parse_args(command) for command in commands]
    assert [(run.precision, run.jobs) for run in runs] == [("float32", 2), ("bfloat16", 2)]
    assert all(run.recipe == "quick" for run in runs)
    assert not any(run.output_dir.exists() for run in runs)  # each starts from nothing
    assert capsys.readouterr().out.count("times faster") == 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tutorials_way_has_the_same_quadrants(mnist_dir, n):
    theirs = TutorialWay(str(mnist_dir), 60, n).data["train"][0]
    ours = get_data(n, 60, dataset="mnist", data_dir=mnist_dir)[0]["train"][0]
    for key in ("input", "output"):
        torch.testing.assert_close(theirs[key], ours[key])


def test_exponent_of_growth():
    assert compare.exponent([1, 10, 100], [3, 300, 30_000]) == pytest.approx(2)


def test_all_ways_have_the_same_losses(mnist_dir):
    ways = (TutorialWay(str(mnist_dir), 60), BareLoop(str(mnist_dir), 60))
    package = Package(str(mnist_dir), 60)
    weights = package.cvae.state_dict()
    for way in ways:
        way.cvae.load_state_dict(weights)
        way.baseline_adam.param_groups[0]["lr"] = 0.0
    expected = baseline_nll(package.baseline, package.datasets["val"]).mean().item()
    for way in ways:
        assert way.baseline_epoch() == pytest.approx(expected, rel=1e-5)


def test_bare_loop_has_the_packages_weights(mnist_dir):
    package, bare = Package(str(mnist_dir), 60), BareLoop(str(mnist_dir), 60)
    bare.cvae.load_state_dict(package.cvae.state_dict())
    batch = package.datasets["val"][:10]
    torch.manual_seed(1)
    ours = log_weights(package.cvae, batch["input"], batch["output"], num_particles=5)
    torch.manual_seed(1)
    with torch.no_grad():
        theirs = bare._log_weights(*bare._batch("val", torch.arange(10)), 5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)
