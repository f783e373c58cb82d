"""The benchmarks run, and what they compare is the same work; nothing is timed here."""

import re
import sys

import pytest
import torch

from cvae.estimators import baseline_nll, log_weights

from .perf import animation, compare, time_to_quality
from .perf.bare_loop import BareLoop
from .perf.package import Package
from .perf.tutorial_way import TutorialWay


def test_comparison_runs(mnist_dir, monkeypatch, capsys):
    words = ["compare", "--data-dir", str(mnist_dir), "--images", "60", "--repeats", "1", "--without-growth"]
    monkeypatch.setattr(sys, "argv", words)
    compare.main()
    out = capsys.readouterr().out
    for task in ("baseline epoch", "CVAE epoch", "table, 10 particles", "importance sampling, 100 particles"):
        assert task in out
    assert out.count("times faster") == 3 and out.count("products alone") == 4


def test_share_of_the_animation_is_told(mnist_dir, monkeypatch, capsys):
    words = ["animation", "--data-dir", str(mnist_dir), "--images", "60", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", words)
    animation.main()
    assert re.match(r"frames: \d+\.\d+ s for each epoch, .* %\ngif: .* %\n", capsys.readouterr().out)


def test_count_of_the_tutorials_epochs_ends_with_the_quality(mnist_dir, monkeypatch, capsys):
    monkeypatch.setattr(time_to_quality, "MAX_EPOCHS", 2)
    monkeypatch.setattr(time_to_quality, "QUALITY", -1)
    with pytest.raises(SystemExit, match="did not come to -1 in 2 epochs"):
        time_to_quality.count_epochs(str(mnist_dir), 60)
    out = capsys.readouterr().out
    assert "baseline, epoch 2: " in out and "CVAE, epoch 2: " in out
    monkeypatch.setattr(time_to_quality, "QUALITY", 1e6)
    assert time_to_quality.count_epochs(str(mnist_dir), 60) == (2, 1)


def test_tutorials_time_to_quality_is_that_of_its_epochs(mnist_dir, monkeypatch):
    monkeypatch.setattr(time_to_quality, "timed", lambda epoch: 2.0 if "baseline" in epoch.__name__ else 5.0)
    monkeypatch.setattr(time_to_quality, "BASELINE_EPOCHS", 10)
    monkeypatch.setattr(time_to_quality, "CVAE_EPOCHS", 100)
    assert time_to_quality.tutorial(str(mnist_dir), 60) == 520


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
