"""The benchmarks run, and what they compare is the same work; nothing is timed here."""

import struct
from pathlib import Path

import pytest
import torch

from cvae.estimators import estimate_cll

from .conftest import make_constant
from .perf import compare, time_to_table
from .perf.package import Package
from .perf.tutorial_way import TutorialWay


@pytest.fixture
def mnist_dir(tmp_path):
    """A folder of files in MNIST's format: 60 images to train on, 10 to validate."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 60), ("t10k", 10)):
        images = torch.randint(0, 256, (count * 784,), dtype=torch.uint8).numpy().tobytes()
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images)
        labels = struct.pack(">II", 2049, count) + bytes(count)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(labels)
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


@pytest.mark.parametrize("n", [1, 2, 3])
def test_both_ways_have_the_same_losses(mnist_dir, n):
    """At the same weights, which no step moves: of the same pixels of the same images."""
    package, way = Package(mnist_dir, 60, n), TutorialWay(mnist_dir, 60, n)
    for net in (package.cvae.prior_net, package.cvae.recognition_net):
        make_constant(net, 0.3, 1e-6)  # nothing is left to chance
    way.cvae.load_state_dict(package.cvae.state_dict())
    way.baseline_adam.param_groups[0]["lr"] = way.svi.optim.pt_optim_args["lr"] = 0.0
    assert way.baseline_epoch() == pytest.approx(package.table(), rel=1e-5)
    assert way.table() == pytest.approx(package.table(), rel=1e-5)
    nll = estimate_cll(package.cvae, package.val, num_particles=1).mean().item()
    assert way.cvae_epoch() == pytest.approx(nll, rel=1e-4)
