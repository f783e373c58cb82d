import json
from dataclasses import asdict
from typing import Any

import pandas as pd
import pytest
import torch

from cvae.evaluate import Estimate, Evaluation
from cvae.run.results import save_weights, write_summary, write_tables
from cvae.run.settings import Settings
from cvae.run.tables import Table
from cvae.storage.checkpoint import Checkpoint

ROWS = [
    "NN (baseline)",
    "CVAE (Monte Carlo)",
    "CVAE (prior sampling)",
    "CVAE (importance sampling)",
    "Performance gap",
]


METRICS: dict[str, Any] = {
    "splits": {
        "train": {"name": "some images", "images": 5000},
        "val": {"name": "MNIST test set", "images": 1000},
    },
    "recipe": "recipe tutorial",
    "seed": 7,
    "arguments": {"num_particles": "10", "num_importance_samples": "100"},
}


def evaluation(start):
    rows = {
        row: Estimate(start + i + 0.25, 0.5, 1000, 10 if i in (1, 4) else 100)
        for i, row in enumerate(ROWS)
    }
    return Evaluation(rows, {"KL": Estimate(start + 0.123, 0.04, 1000, 0), "Active latents": 3})


def test_files_hold_every_number_and_where_it_comes_from(tmp_path, capsys):
    settings = Settings(output_dir=tmp_path, num_quadrant_inputs=(1, 2, 3), seeds=(7,))
    checkpoints = {
        n: Checkpoint(
            tmp_path / f"checkpoint_q{n}.pt",
            {"image_shape": [28, 20]},
            {
                "outcome": {
                    "options": settings.evaluation_options(),
                    "evaluations": {"val": asdict(evaluation(start))},
                    "splits": METRICS["splits"],
                    "summary": {"seconds": 2.5},
                }
            },
        )
        for n, start in ((1, 100), (3, 20))
    }
    checkpoints[2] = Checkpoint(tmp_path / "checkpoint_q2.pt", {})  # not evaluated yet
    write_tables(settings, 7, checkpoints)
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.index) == ROWS and list(table.columns) == ["1 quadrant", "3 quadrants"]
    assert table.loc["CVAE (importance sampling)", "3 quadrants"] == 23.25
    assert table.index.name is None
    text = (tmp_path / "results.md").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for source in (metrics["caption"], text):
        for part in (
            "nats per image",
            "lower is better",
            "MNIST test set (1,000 images), which also decided when to stop",
            "Monte Carlo 10 and the others 100 particles",
            "recipe tutorial",
            "seed 7",
            "standard error over images",
        ):
            assert part in source
    assert "| CVAE (Monte Carlo) | 101.2 ± 0.5 | 21.2 ± 0.5 |" in text
    assert metrics["image_shape"] == [28, 20]
    assert {name: metrics["arguments"][name] for name in METRICS["arguments"]} == METRICS[
        "arguments"
    ]
    assert metrics["results"]["q3"]["val"]["rows"]["NN (baseline)"] == {
        "mean": 20.25,
        "standard_error": 0.5,
        "num_images": 1000,
        "num_particles": 100,
    }
    assert metrics["results"]["q1"]["val"]["diagnostics"]["Active latents"] == 3
    assert metrics["seconds"] == 5 and set(metrics["settings"]) == {"q1", "q3"}
    write_summary(settings, {7: checkpoints})
    assert capsys.readouterr().out.strip() == text.strip()


def test_diagnostics_are_shown_on_request():
    results = {2: {"val": evaluation(50)}}
    assert "Active latents" not in Table.of_run(results, METRICS).markdown()
    text = Table.of_run(results, METRICS, diagnostics=True).markdown()
    assert "| KL | 50.12 ± 0.04 |" in text and "| Active latents | 3.0 |" in text


def test_holdout_gives_a_validation_and_a_test_column():
    splits = METRICS["splits"] | {"test": {"name": "other images", "images": 1000}}
    table = Table.of_run(
        {1: {"val": evaluation(9), "test": evaluation(8)}}, {**METRICS, "splits": splits}
    )
    assert list(table.values.columns) == ["1 quadrant, validation", "1 quadrant, test"]
    assert "which decided when to stop training; test: other images (1,000 images)" in table.caption


def test_seeds_are_averaged_and_their_spread_shown():
    starts = (10, 12, 17)
    tables = [
        Table.of_run({1: {"val": evaluation(start)}}, METRICS | {"seed": seed})
        for seed, start in enumerate(starts)
    ]
    table = Table.of_seeds(tables)
    assert list(table.values.index) == ROWS
    assert table.values.loc["NN (baseline)", "1 quadrant"] == pytest.approx(13.25)
    assert table.errors.loc["NN (baseline)", "1 quadrant"] == pytest.approx(13**0.5)
    assert "mean of seeds 0, 1, 2 ± standard deviation over them" in table.caption
    assert "| NN (baseline) | 13.2 ± 3.6 |" in table.markdown()
    assert table.metrics == {"caption": table.caption, "runs": [each.metrics for each in tables]}


@pytest.mark.parametrize("settings", [([1, 2], [1]), ([1], [1, 2]), ([1, 2], [1, 3])])
def test_means_are_of_settings_that_all_seeds_have(settings):
    results = [{n: {"val": evaluation(seed)} for n in each} for seed, each in enumerate(settings)]
    table = Table.of_seeds(
        [Table.of_run(each, METRICS | {"seed": seed}) for seed, each in enumerate(results)]
    )
    assert list(table.values.columns) == list(table.errors.columns) == ["1 quadrant"]
    assert not table.errors.isna().any(axis=None)


def test_weights_are_plain_state_dicts(tmp_path):
    net = torch.nn.Linear(2, 3)
    save_weights(tmp_path, 2, {"baseline_net": net, "cvae_net": net})
    assert {path.name for path in tmp_path.iterdir()} == {"baseline_net_q2.pth", "cvae_net_q2.pth"}
    weights = torch.load(tmp_path / "cvae_net_q2.pth", weights_only=True)
    assert list(weights) == ["weight", "bias"] and torch.equal(weights["weight"], net.weight)
