import json

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from cvae.evaluate import Estimate
from cvae.report import markdown, save_setting, save_tables

ROWS = [
    "NN (baseline)",
    "CVAE (Monte Carlo)",
    "CVAE (prior sampling)",
    "CVAE (importance sampling)",
    "Performance gap",
]


def column(start):
    return {
        row: Estimate(start + i + 0.25, 0.5, 1000, 10 if i in (1, 4) else 100) for i, row in enumerate(ROWS)
    }


def test_tables_hold_every_figure_and_where_it_comes_from(tmp_path):
    results = {1: column(100), 3: column(20)}
    save_tables(tmp_path, results, {"split": "MNIST test set", "seed": 7})
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.index) == ROWS and list(table.columns) == ["1 quadrant", "3 quadrants"]
    assert table.loc["CVAE (importance sampling)", "3 quadrants"] == 23.25
    text = (tmp_path / "results.md").read_text()
    for source in (table.index.name, text):
        assert all(
            part in source for part in ("nats per image", "lower is better", "MNIST test set", "1,000 images")
        )
    assert "| CVAE (Monte Carlo) | 101.2 ± 0.5 | 21.2 ± 0.5 |" in text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["seed"] == 7
    assert metrics["results"]["q3"]["NN (baseline)"] == {
        "nll": 20.25,
        "standard_error": 0.5,
        "num_images": 1000,
        "num_particles": 100,
    }


def test_markdown_names_both_numbers_of_particles():
    assert "Monte Carlo 10 and the others 100 particles" in markdown({2: column(50)}, "a split")


def test_weights_are_plain_state_dicts(tmp_path):
    net = torch.nn.Linear(2, 3)
    save_setting(tmp_path, 2, {"baseline_net": net, "cvae_net": net}, Figure())
    assert {path.name for path in tmp_path.iterdir()} == {
        "baseline_net_q2.pth",
        "cvae_net_q2.pth",
        "cvae_plot_q2.png",
    }
    weights = torch.load(tmp_path / "cvae_net_q2.pth", weights_only=True)
    assert list(weights) == ["weight", "bias"] and torch.equal(weights["weight"], net.weight)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    def fill_the_disk(self, text, **_):
        self.write_bytes(text[:3].encode())
        raise OSError("No space left on device")

    (tmp_path / "results.md").write_text("an earlier run's")
    monkeypatch.setattr("pathlib.Path.write_text", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        save_tables(tmp_path, {1: column(100)}, {"split": "a split"})
    assert (tmp_path / "results.md").read_bytes() == b"an earlier run's"
    assert {path.name for path in tmp_path.iterdir()} == {"results.md", "results.csv"}
