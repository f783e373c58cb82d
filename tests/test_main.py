import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import main
from cvae.model import CVAE

TINY = "--dataset mnist-5k --subset 40 -n 1 -p 2 --num-importance-samples 3 -vi 3 -vs 2".split()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tiny_run_writes_every_file(tmp_path, capsys):
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(tmp_path), "--seed", "5"]) == 0
    expected = {f"{net}_net_q{n}.pth" for net in ("baseline", "cvae") for n in (1, 3)}
    expected |= {"cvae_plot_q1.png", "cvae_plot_q3.png", "results.csv", "results.md", "metrics.json"}
    assert set(files(tmp_path)) == expected

    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.columns) == ["1 quadrant", "3 quadrants"] and table.shape == (5, 2)
    split = "first 40 of the MNIST-5k validation split"
    assert split in table.index.name and split in (tmp_path / "results.md").read_text()
    out = capsys.readouterr().out
    assert (tmp_path / "results.md").read_text() in out and "reconstruction" in out

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["seed"] == 5 and metrics["dataset"] == "mnist-5k"
    assert metrics["splits"]["val"] == {"name": split, "images": 40}
    assert metrics["settings"]["q1"]["cvae"]["epochs_run"] == 1
    assert set(metrics["versions"]) == {"python", "torch", "pyro"}

    cvae = CVAE()
    cvae.load_state_dict(torch.load(tmp_path / "cvae_net_q3.pth", weights_only=True))
    baseline = torch.load(tmp_path / "baseline_net_q3.pth", weights_only=True)
    assert all(torch.equal(value, cvae.baseline_net.state_dict()[name]) for name, value in baseline.items())


def test_a_setting_does_not_depend_on_those_before_it(tmp_path):
    for name, settings in (("both", ["1", "2"]), ("alone", ["2"])):
        assert main.main([*TINY, "-nq", *settings, "--output-dir", str(tmp_path / name)]) == 0
    both, alone = (pd.read_csv(tmp_path / name / "results.csv", index_col=0) for name in ("both", "alone"))
    assert both["2 quadrants"].equals(alone["2 quadrants"])
    assert files(tmp_path / "both")["cvae_plot_q2.png"] == files(tmp_path / "alone")["cvae_plot_q2.png"]


def test_samples_and_figures_never_shift_training(tmp_path):
    for name, words in (("few", ""), ("many", "-p 3 --num-importance-samples 5 -vi 2 -vs 1")):
        assert main.main([*TINY, *words.split(), "-nq", "1", "--output-dir", str(tmp_path / name)]) == 0
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    assert few["cvae_net_q1.pth"] == many["cvae_net_q1.pth"]


def test_holdout_has_columns_for_both_splits_and_diagnostics_have_rows(tmp_path):
    words = "--holdout 30 --binarize --diagnostics -nq 2".split()
    assert main.main([*TINY, *words, "--output-dir", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.columns) == ["2 quadrants, validation", "2 quadrants, test"] and len(table) == 11
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {key: split["images"] for key, split in metrics["splits"].items()} == {
        "train": 40,
        "val": 30,
        "test": 40,
    }
    assert all("binarized" in split["name"] for split in metrics["splits"].values())
    val = metrics["results"]["q2"]["val"]["rows"]
    best = metrics["settings"]["q2"]["baseline"]["epochs"][-1]["val"]
    assert val["NN (baseline)"]["mean"] == pytest.approx(best, rel=1e-5)  # what decided when to stop


def test_best_recipe_runs_and_its_weights_load(tmp_path):
    words = "--recipe best --baseline-epochs 1 -nq 3".split()
    assert main.main([*TINY, *words, "--output-dir", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    named = "recipe best with --num-epochs 1 --baseline-epochs 1 --num-importance-samples 3"
    assert f"{named}, seed 0" in text
    weights = torch.load(tmp_path / "cvae_net_q3.pth", weights_only=True)
    CVAE(activation="silu", generation_input="xz").load_state_dict(weights)


def test_seeds_have_a_folder_each_and_a_table_of_means(tmp_path, capsys):
    assert main.main([*TINY, "-nq", "1", "--seeds", "4", "5", "--output-dir", str(tmp_path / "both")]) == 0
    assert main.main([*TINY, "-nq", "1", "--seed", "5", "--output-dir", str(tmp_path / "alone")]) == 0
    both = tmp_path / "both"
    assert {path.name for path in both.iterdir()} == {
        "seed_4",
        "seed_5",
        "results.csv",
        "results.md",
        "metrics.json",
    }
    again = files(both / "seed_5")
    assert again["results.csv"] == files(tmp_path / "alone")["results.csv"]
    four, five, mean = (
        pd.read_csv(folder / "results.csv", index_col=0)
        for folder in (both / "seed_4", both / "seed_5", both)
    )
    pd.testing.assert_frame_equal(mean, (four + five) / 2, check_names=False)
    assert (both / "results.md").read_text() in capsys.readouterr().out
    assert [run["seed"] for run in json.loads((both / "metrics.json").read_text())["runs"]] == [4, 5]


def test_auto_falls_back_and_says_so_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="Using MNIST-5k instead"):
        assert main.main([*TINY[2:], "-nq", "2"]) == 0
    assert "MNIST-5k" in (tmp_path / "results" / "results.md").read_text()
    assert "MNIST-5k training split" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, status, complaint",
    [
        ("--dataset mnist --data-dir {empty}", 1, "can't be downloaded"),
        ("--dataset mnist-5k --device cuda", 2, "--device cuda is absent here"),
        ("--dataset mnist-5k --subset 5 -vi 6", 2, "--num-images 6 is more than the 5 validation images"),
        ("--dataset mnist-5k --holdout 4000", 2, "--holdout 4000 leaves no image to train on"),
        ("--dataset mnist-5k --subset 200 -lr 1e30 -n 2", 1, "loss is"),
        ("--dataset mnist-5k --output-dir {file}", 1, "choose another --output-dir"),
    ],
)
def test_failure_is_one_clear_line_and_overwrites_nothing(
    tmp_path, monkeypatch, capsys, line, status, complaint
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    results = tmp_path / "results"
    results.mkdir()
    for name in ("results.csv", "baseline_net_q1.pth", "cvae_net_q1.pth", "metrics.json"):
        (results / name).write_text("an earlier run's")
    (tmp_path / "file").write_text("")
    before = files(results)
    words = line.format(empty=tmp_path / "empty", file=tmp_path / "file").split()
    assert main.main(["--output-dir", str(results), *words]) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("main.py: error: ") and complaint in lines[-1]
    assert files(results) == before


def test_a_single_image_gives_figures_without_standard_errors(tmp_path):
    assert main.main([*TINY, "--subset", "1", "-vi", "1", "-nq", "3", "--output-dir", str(tmp_path)]) == 0
    assert "±" not in (tmp_path / "results.md").read_text().split("\n", 1)[1]
    rows = json.loads((tmp_path / "metrics.json").read_text())["results"]["q3"]["val"]["rows"]
    assert all(row["standard_error"] is None and row["num_images"] == 1 for row in rows.values())


def test_interruption_ends_without_a_traceback(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cvae.experiment.train_baseline", interrupt)
    assert main.main([*TINY, "--output-dir", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
