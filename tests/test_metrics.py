"""The table, its caption, and metrics.json."""

import json
from dataclasses import asdict, replace

import pandas as pd
import pytest

from cvae.evaluate import Estimate, Evaluation
from cvae.experiment.folder import lock_folder, open_checkpoint
from cvae.experiment.metrics import read_metrics, write_results, write_summary
from cvae.experiment.options import Config, DataConfig, Identity, Run

ROWS = ["NN (baseline)", "CVAE (Monte Carlo)", "CVAE (prior sampling)"]
ROWS += ["CVAE (importance sampling)", "Performance gap"]
SPLITS = {
    "train": {"name": "some images", "images": 5000},
    "val": {"name": "MNIST test set", "images": 1000},
    "test": {"name": "other images", "images": 2000},
}


def evaluation(start: float) -> Evaluation:
    counts = {row: 100 if "sampling" in row else 10 for row in ROWS}
    rows = {row: Estimate(start + i + 0.25, 0.5, 1000, counts[row]) for i, row in enumerate(ROWS)}
    return Evaluation(
        rows, {"KL": Estimate(start + 0.123, 0.04, 1000, 0), "Active latents": 3}, "Bernoulli"
    )


def save_run(config: Config, seed: int, n: int, start: float, splits=("val",)) -> None:
    """Save the checkpoint of a run that was evaluated to such numbers."""
    open_checkpoint(Run(config, seed, n)).save(
        evaluation={
            "options": dict(vars(config.evaluation)),
            "code": config.identity.evaluation,
            "evaluations": {split: asdict(evaluation(start)) for split in splits},
            "splits": {split: SPLITS[split] for split in ("train", *splits)},
            "bright_background": False,
            "summary": {"seconds": 2.5},
        }
    )


@pytest.fixture
def config(tmp_path) -> Config:
    data = DataConfig(dataset="mnist-5k", data_dir=tmp_path)
    identity = Identity(image_shape=(28, 28))
    return Config(data=data, seeds=(7,), output_dir=tmp_path, identity=identity)


def test_files_hold_every_number_and_where_it_comes_from(config, tmp_path, capsys):
    save_run(config, 7, 1, 100)
    save_run(config, 7, 3, 20)
    open_checkpoint(Run(config, 7, 2)).save()  # not evaluated yet
    write_results(config, 7)
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.index) == ROWS and list(table.columns) == ["1 quadrant", "3 quadrants"]
    assert table.loc["CVAE (importance sampling)", "3 quadrants"] == 23.25
    assert (tmp_path / "results.csv").read_text().startswith(",1 quadrant,3 ")

    text = (tmp_path / "results.md").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for source in (metrics["caption"], text):
        for part in (
            "nats per image; lower is better",
            "MNIST test set (1,000 images), which also decided when to stop",
            "Monte Carlo 10 and the others 100 particles",
            "recipe tutorial, seed 7",
            "± standard error over images",
        ):
            assert part in source
    assert "| CVAE (Monte Carlo) | 101.2 ± 0.5 | 21.2 ± 0.5 |" in text
    assert "Active latents" not in text
    (run,) = metrics["runs"]
    assert (metrics["image_shape"], run["seed"], run["seconds"]) == ([28, 28], 7, 5)
    assert metrics["splits"]["val"] == SPLITS["val"] and metrics["dataset"] == "mnist-5k"
    values = {"num_particles": 10, "learning_rate": 1e-3, "subset": None, "binarize": False}
    assert values.items() <= metrics["arguments"].items()
    assert metrics["arguments"]["max_grad_norm"] is None  # no limit, for which JSON has no number
    assert set(run["settings"]) == set(run["results"]) == {"q1", "q3"}
    assert run["results"]["q3"]["val"] == json.loads(json.dumps(evaluation(20).summary()))

    write_summary(config)
    assert capsys.readouterr().out.strip() == text.strip()


def test_holdout_gives_a_validation_and_a_test_column(config):
    config = replace(config, data=replace(config.data, holdout=1000))
    save_run(config, 7, 1, 9, splits=("val", "test"))
    written = write_results(config, 7)
    assert written is not None
    table, _ = written
    assert list(table.values.columns) == ["1 quadrant, validation", "1 quadrant, test"]
    decided = "validation: MNIST test set (1,000 images), which decided when to stop training; "
    assert decided + "test: other images (2,000 images); " in table.caption
    assert "recipe tutorial with --holdout 1000" in table.caption


def test_seeds_are_averaged_and_their_spread_shown(config, tmp_path):
    config = replace(config, seeds=(0, 1, 2))
    for seed, start in zip(config.seeds, (10, 12, 17), strict=True):
        (tmp_path / f"seed_{seed}").mkdir()
        save_run(config, seed, 1, start)
        save_run(config, seed, 1 + seed, start)  # which not all of them have
    write_summary(config)
    mean = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(mean.index) == ROWS and list(mean.columns) == ["1 quadrant"]
    assert mean.loc["NN (baseline)", "1 quadrant"] == pytest.approx(13.25)
    text = (tmp_path / "results.md").read_text()
    assert "mean of seeds 0, 1, 2 ± standard deviation over them" in text
    assert "| NN (baseline) | 13.2 ± 3.6 |" in text
    long = pd.read_csv(tmp_path / "results_long.csv")
    assert list(long.columns)[:4] == ["seed", "num_quadrant_inputs", "split", "row"]
    assert list(zip(long["seed"], long["num_quadrant_inputs"], strict=True))[::6] == [
        (0, 1), (1, 1), (1, 2), (2, 1), (2, 3)
    ]  # fmt: skip
    (line,) = (
        long[(long["seed"] == 2) & (long["num_quadrant_inputs"] == 3)].query("row == 'KL'").values
    )
    assert [*line[4:]] == [17.123, 0.04, 1000, 0, "mnist-5k", "recipe tutorial"]
    of_seed = pd.read_csv(tmp_path / "seed_1" / "results_long.csv")
    pd.testing.assert_frame_equal(of_seed, long[long["seed"] == 1].reset_index(drop=True))
    metrics, of_one = read_metrics(tmp_path), read_metrics(tmp_path / "seed_1")
    assert [run["seed"] for run in metrics["runs"]] == [0, 1, 2]
    assert metrics.keys() == of_one.keys() and metrics["runs"][1:2] == of_one["runs"]


def test_metrics_of_an_older_version_are_read_in_todays_layout(tmp_path):
    old = {"seed": 3, "settings": {"q1": {}}, "results": {"q1": {}}, "dataset": "mnist"}
    old["arguments"] = {"activation": "silu", "subset": "None", "binarize": "True", "holdout": "7"}
    (tmp_path / "metrics.json").write_text(json.dumps(old))
    metrics = read_metrics(tmp_path)
    values = {"activation": "silu", "subset": None, "binarize": True, "holdout": 7}
    assert metrics["arguments"] == values and metrics["dataset"] == "mnist"
    assert metrics["runs"] == [{"seed": 3, "settings": {"q1": {}}, "results": {"q1": {}}}]


def test_locked_folder_is_made_and_refuses_another(tmp_path):
    with lock_folder(tmp_path / "a" / "b"):
        with pytest.raises(OSError, match="another run is writing to .*b: wait for it"):
            with lock_folder(tmp_path / "a" / "b"):
                pass
        with lock_folder(tmp_path / "other"):
            pass
    with lock_folder(tmp_path / "a" / "b"):
        pass
