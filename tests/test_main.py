"""The whole program, in this process, on few images."""

import errno
import importlib
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageSequence

import main
from cvae.datasets import load_images
from cvae.evaluate import evaluate
from cvae.model import CVAE
from cvae.trained import TrainedCVAE

from .conftest import assert_same_weights
from .faults import ROOT, written_by

TINY = "--dataset mnist-5k --subset 40 -n 1 -p 2 --num-importance-samples 3 -vi 3 -vs 2".split()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.is_file()}


def run(folder: Path, line: str = "") -> int:
    """Run a tiny experiment, to which a line of flags adds."""
    return main.main([*TINY, "--output-dir", str(folder), *line.split()])


@pytest.fixture(scope="module", autouse=True)
def coarse_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvae.figures.DPI", 40)
        patch.setattr("cvae.experiment.pictures.NUM_DIVERSITY_SAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of two finished runs, on which no test may write."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(folder, "-nq 1 3") == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copied", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "copied"


@pytest.fixture
def no_training(monkeypatch, finished):
    def never(*_, **__):
        raise AssertionError("this was done before")

    monkeypatch.setattr("torch.optim.AdamW.step", never)


@pytest.fixture
def no_figures(monkeypatch):
    """Leave out what takes most of the time of a tiny run."""
    monkeypatch.setattr("cvae.experiment.pictures.Pictures.draw", lambda *_: None)
    monkeypatch.setattr("main.write_demos", lambda *_: None)


def same_results(folder: Path, whole: Path) -> bool:
    """Tell whether all files of a folder are the same in another, the table among them."""
    found, expected = written_by(folder), written_by(whole)
    return "results.csv" in found and found.items() <= expected.items()


def error_line(capsys: Any) -> str:
    """Return the program's one line on stderr, which a download's lines may precede."""
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = [line for line in lines if line.startswith("main.py: ")]
    assert line == lines[-1] and not any("Traceback" in line for line in lines)
    return line.removeprefix("main.py: ").removeprefix("error: ")


def test_every_file_is_written(tmp_path, capsys):
    assert run(tmp_path, "-nq 1 3 --seed 5") == 0
    names = "baseline_net_q{}.pth cvae_net_q{}.pth checkpoint_q{}.pt training_q{}.csv "
    names += "cvae_plot_q{}.png diversity_q{}.png training_q{}.png per_image_q{}.csv"
    expected = {name.format(n) for name in names.split() for n in (1, 3)}
    assert set(files(tmp_path)) == expected | {
        "results.csv",
        "results.md",
        "results_long.csv",
        "metrics.json",
        "problem.png",
        "demo.html",
    }
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.columns) == ["1 quadrant", "3 quadrants"] and table.shape == (5, 2)
    out, text = capsys.readouterr().out, (tmp_path / "results.md").read_text()
    assert text in out and f"\nWritten to {tmp_path}\n" in out
    assert "first 40 of the MNIST-5k validation split (40 images)" in text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["runs"][0]["settings"]["q1"]["cvae"]["epochs_run"] == 1

    cvae = CVAE()
    cvae.load_state_dict(torch.load(tmp_path / "cvae_net_q3.pth", weights_only=True))
    baseline = torch.load(tmp_path / "baseline_net_q3.pth", weights_only=True)
    for name, value in cvae.baseline_net.state_dict().items():
        assert torch.equal(value, baseline[name])


def test_a_setting_does_not_depend_on_those_before_it(finished, tmp_path, no_figures):
    for n in (3, 1):
        assert run(tmp_path, f"-nq {n}") == 0
    assert same_results(tmp_path, finished)


def test_samples_and_figures_never_shift_training(finished, tmp_path):
    assert run(tmp_path, "-nq 1 -p 3 --num-importance-samples 5 -vi 2 -vs 1 --animate") == 0
    assert files(tmp_path)["cvae_net_q1.pth"] == files(finished)["cvae_net_q1.pth"]


def test_holdout_has_columns_for_both_splits_and_diagnostics_have_rows(tmp_path, no_figures):
    assert run(tmp_path, "-nq 2 --holdout 30 --binarize --diagnostics") == 0
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.columns) == ["2 quadrants, validation", "2 quadrants, test"]
    assert "Active latents" in table.index
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    sizes = {key: split["images"] for key, split in metrics["splits"].items()}
    assert sizes == {"train": 40, "val": 30, "test": 40}
    assert all("binarized" in split["name"] for split in metrics["splits"].values())
    per_image = pd.read_csv(tmp_path / "per_image_q2.csv", index_col="image")
    assert [*per_image.index] == [*range(30), *range(40)]
    labels = load_images("mnist-5k", "")["val"].digits[:40].tolist()
    assert per_image.loc[per_image["split"] == "test", "label"].tolist() == labels
    values = per_image.drop(columns=["label", "Effective sample size"])
    means = values.groupby("split").mean().T.loc[lambda t: t.index.isin(table.index)]
    expected = table.loc[means.index].set_axis(["val", "test"], axis=1)
    pd.testing.assert_frame_equal(means, expected[["test", "val"]], check_names=False, rtol=1e-6)
    assert len(means) == 8
    decided = metrics["runs"][0]["settings"]["q2"]["baseline"]["epochs"][-1]["val"]
    rows = metrics["runs"][0]["results"]["q2"]["val"]["rows"]
    assert rows["NN (baseline)"]["mean"] == pytest.approx(decided, rel=1e-5)


def test_own_images_give_the_same_weights_from_an_array_and_a_folder(tmp_path):
    images = torch.randint(0, 256, (20, 32, 28), dtype=torch.uint8).numpy()
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:02}.png")
    np.savez(tmp_path / "images.npz", images=np.repeat(images[..., None], 3, -1))
    found = {}
    for name in ("images.npz", "images"):
        folder = tmp_path / f"results {name}"
        words = [*TINY, "-nq", "1", "--val-fraction", "0.3", "--dataset", str(tmp_path / name)]
        assert main.main([*words, "--output-dir", str(folder)]) == 0
        assert f"{name} validation split (6 images)" in (folder / "results.md").read_text()
        assert json.loads((folder / "metrics.json").read_text())["image_shape"] == [32, 28]
        found[name] = files(folder)
    assert found["images.npz"]["cvae_net_q1.pth"] == found["images"]["cvae_net_q1.pth"]


def test_own_images_may_be_moved_but_not_changed(tmp_path, capsys, no_figures):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    folder = tmp_path / "out"
    np.savez(tmp_path / "here.npz", images=images)
    np.savez(tmp_path / "other.npz", images=images.reshape(20, 4, 16))
    assert run(folder, f"-nq 1 --dataset {tmp_path}/here.npz") == 0
    before = files(folder)
    assert run(folder, f"-nq 1 --dataset {tmp_path}/other.npz") == 2
    assert "image shape [8, 8] there, [4, 16] here" in error_line(capsys)
    assert run(folder, "-nq 1") == 2
    assert "dataset own images there, mnist-5k here" in error_line(capsys)
    assert files(folder) == before
    (tmp_path / "here.npz").rename(tmp_path / "there.npz")
    assert run(folder, f"-nq 1 --dataset {tmp_path}/there.npz") == 0
    assert "done before" in capsys.readouterr().out


def test_best_recipe_runs_and_its_weights_load(tmp_path, no_figures):
    assert run(tmp_path, "--recipe best -n 2 --baseline-epochs 1 -nq 3") == 0
    assert "recipe best with --subset 40" in (tmp_path / "results.md").read_text()
    weights = torch.load(tmp_path / "cvae_net_q3.pth", weights_only=True)
    net = CVAE(activation="silu", generation_input="xz", residual_blocks=1)
    net.load_state_dict(weights)


def test_seeds_have_a_folder_each_and_a_table_of_means(tmp_path, capsys, no_figures):
    assert run(tmp_path, "-nq 1 --seeds 4 0") == 0
    tables = [
        pd.read_csv(folder / "results.csv", index_col=0)
        for folder in (tmp_path / "seed_4", tmp_path / "seed_0", tmp_path)
    ]
    pd.testing.assert_frame_equal(tables[2], (tables[0] + tables[1]) / 2, check_names=False)
    assert (tmp_path / "results.md").read_text() in capsys.readouterr().out
    assert run(tmp_path / "single", "-nq 1") == 0
    assert (
        files(tmp_path / "single")["cvae_net_q1.pth"]
        == files(tmp_path / "seed_0")["cvae_net_q1.pth"]
    )
    capsys.readouterr()
    assert run(tmp_path, "-nq 1") == 2  # a single run is not put among them
    assert "seed_0/checkpoint_q1.pt is there from another run" in error_line(capsys)
    assert run(tmp_path / "single", "-nq 1 --seeds 0 1") == 2
    assert "checkpoint_q1.pt is there from another run" in error_line(capsys)


def test_auto_falls_back_and_says_so(tmp_path, monkeypatch, capsys, no_figures):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="Using MNIST-5k instead"):
        assert main.main([*TINY[2:], "-nq", "2"]) == 0
    assert "MNIST-5k" in (tmp_path / "results" / "results.md").read_text()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "line, status, complaint",
    [
        ("--data-dir {tmp}/empty --dataset mnist", 1, "can't be downloaded"),
        ("--device cuda", 2, "--device cuda is absent here"),
        ("--output-dir " + "x" * 300, 2, "(File name too long): choose another --output-dir"),
        ("--seed 1 -lr 0.5", 2, "learning rate 0.001 there, 0.5 here; seed 0 there, 1 here"),
        ("--dataset {tmp}/odd.npz", 1, "height and width must be even"),
    ],
)
def test_failures_are_one_line_and_overwrite_nothing(
    copied, tmp_path, monkeypatch, capsys, line, status, complaint
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").touch()
    np.savez(tmp_path / "odd.npz", images=np.full((20, 7, 8), 255, np.uint8))
    before = files(copied)
    assert run(copied, "-nq 1 3 " + line.format(tmp=tmp_path)) == status
    assert complaint in error_line(capsys)
    assert files(copied) == before


def test_training_that_diverges_ends_in_one_line(tmp_path, capsys):
    assert run(tmp_path, "-nq 1 -lr 1e30 -n 9") == 1
    assert re.search(r"loss is (nan|inf): try a smaller --learning-rate", error_line(capsys))


def test_finished_runs_are_repeated_from_what_is_stored(copied, monkeypatch, capsys, no_training):
    before, text = written_by(copied), (copied / "results.md").read_text()
    (copied / "cvae_plot_q1.png").unlink()
    (copied / "cvae_net_q3.pth").write_text("damaged")
    monkeypatch.setattr("main.evaluate", None)
    assert run(copied, "-nq 1 3") == 0
    out = capsys.readouterr().out
    assert text in out and ", epoch " not in out and "done before" in out
    assert written_by(copied) == before


def test_finished_run_is_animated_when_asked_and_quiet(copied, capsys, no_training):
    text = (copied / "results.md").read_text()
    assert run(copied, "-nq 3 --animate --quiet") == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == text.strip() and not printed.err
    with Image.open(copied / "training_q3.gif") as picture:
        assert len(list(ImageSequence.Iterator(picture))) == 3


def test_other_numbers_of_samples_evaluate_anew(copied, finished, no_training, no_figures):
    assert run(copied, "-nq 1 -p 4") == 0
    assert list(pd.read_csv(copied / "results.csv", index_col=0)) == ["1 quadrant"]
    assert "Monte Carlo 4 and the others 3" in (copied / "results.md").read_text()
    assert run(copied, "-nq 1 3") == 0
    assert written_by(copied) == written_by(finished)


def stop_after(calls: int, place: str, number: int) -> Any:
    """Return the function of that place, which sends this process a signal after some calls."""
    module, name = place.rsplit(".", 1)
    original = getattr(importlib.import_module(module), name)

    def call(*args, **kwargs):
        nonlocal calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    "name, place, stride",
    [
        ("SIGINT", "math.isfinite", 1),
        ("SIGTERM", "pyro.poutine.replay", 4),
        ("SIGINT", "os.replace", 15),
    ],
)
def test_stopped_run_resumes_and_ends_with_the_same_bytes(
    tmp_path, finished, monkeypatch, capsys, name, place, stride
):
    """Stop at the place, again and again and ever later, until the run comes to its end."""
    number, stops = getattr(signal, name), 0
    if place != "os.replace":
        monkeypatch.setattr("cvae.experiment.pictures.Pictures.draw", lambda *_: None)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    while stops < 60:
        with monkeypatch.context() as patch:
            patch.setattr(place, stop_after(stops, place, number))
            status = run(tmp_path, "-nq 1 3")
        assert before == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        if status == 0:
            break
        assert status == 128 + number
        advice = "the same command resumes after the last finished epoch"
        assert error_line(capsys) == f"stopped by {name}: {advice}"
        stops += stride
    assert stops > 1 and same_results(tmp_path, finished)


def test_animation_of_an_interrupted_run_is_that_of_a_whole_one(tmp_path, monkeypatch):
    line, place = "-nq 2 -n 2 --animate", "math.isfinite"
    assert run(tmp_path / "whole", line) == 0
    with monkeypatch.context() as patch:
        patch.setattr(place, stop_after(6, place, signal.SIGINT))
        assert run(tmp_path / "cut", line) == 130
    assert run(tmp_path / "cut", line) == 0
    assert written_by(tmp_path / "cut") == written_by(tmp_path / "whole")


@pytest.mark.parametrize("room", [0, 4, 10])
def test_full_disk_ends_the_run_which_resumes_with_room(
    tmp_path, finished, monkeypatch, capsys, no_figures, room
):
    """The disk has room for so many files, and then for none."""
    fsync, written = os.fsync, 0

    def fill(file):
        nonlocal written
        written += 1
        if written > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        assert run(tmp_path, "-nq 1 3") == 1
    expected = "can't write .* .No space left on device.: what was saved before is intact"
    assert re.match(expected, error_line(capsys)) and not list(tmp_path.glob(".*.part"))
    assert run(tmp_path, "-nq 1 3") == 0 and same_results(tmp_path, finished)


def test_overwrite_starts_afresh_and_deletes_nothing_else(copied, capsys, no_figures):
    (copied / "notes.txt").write_text("mine")
    assert run(copied, "-nq 2 --seed 1 --overwrite") == 0
    assert list(pd.read_csv(copied / "results.csv", index_col=0)) == ["2 quadrants"]
    assert not [name for name in files(copied) if "q1" in name or "q3" in name]
    assert (copied / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("line", ["--holdout 4000", "--dataset mnist --data-dir {tmp}/empty"])
def test_overwrite_deletes_nothing_for_a_run_that_can_not_start(copied, tmp_path, capsys, line):
    before = files(copied)
    assert run(copied, "--overwrite " + line.format(tmp=tmp_path)) in (1, 2)
    assert files(copied) == before


def test_second_run_in_a_folder_is_refused(copied, capsys, no_figures):
    before = files(copied)
    with filelock.FileLock(copied / ".lock"):
        assert run(copied, "-nq 1 --overwrite") == 1
    assert f"another run is writing to {copied}: wait for it" in error_line(capsys)
    assert files(copied) == before


def test_damaged_checkpoint_is_refused_and_stays(copied, capsys):
    path = copied / "checkpoint_q3.pt"
    path.write_bytes(path.read_bytes()[:-100])
    before = files(copied)
    assert run(copied, "-nq 1 3") == 1
    line = error_line(capsys)
    assert line.startswith(f"{path} is damaged") and "--overwrite" in line
    assert files(copied) == before


@pytest.mark.parametrize(
    "part, content", [("CVAE", {"epochs": []}), ("evaluation", {}), ("CVAE", 3)]
)
def test_checkpoint_of_another_content_is_refused(copied, capsys, no_figures, part, content):
    saved = torch.load(copied / "checkpoint_q3.pt", weights_only=True)
    saved["stages"][part] = content
    torch.save(saved, copied / "checkpoint_q3.pt")
    before = written_by(copied)
    assert run(copied, "-nq 1 3") == 1
    assert "checkpoint_q3.pt is damaged, or of another version" in error_line(capsys)
    assert written_by(copied) == before


def test_python_of_the_readme_runs(finished, monkeypatch, tmp_path):
    """And its examples of changes, with an epoch of few images."""
    texts = [(ROOT / file).read_text() for file in ("README.md", "cvae/changes.md")]
    examples = re.findall("```python\n(.*?)```", "".join(texts), re.DOTALL)
    use, own, start, loop, mask = examples
    shutil.copytree(finished, tmp_path / "results")
    shutil.copytree(finished, tmp_path / "tutorial")
    monkeypatch.chdir(tmp_path)
    splits = load_images("mnist-5k", "").items()
    some = {split: images.select(range(120)) for split, images in splits}
    monkeypatch.setattr("cvae.data.resolve_dataset", lambda *_: "mnist-5k")
    monkeypatch.setattr("cvae.data.load_images", lambda *_: dict(some))
    monkeypatch.setattr("cvae.config.TrainingConfig.epochs", lambda *_: 1)
    found: dict[str, Any] = {}
    exec(use, found)
    assert found["completions"].shape == (10, 100, 28, 28) and found["nll"].shape == (100,)
    loaded = TrainedCVAE.load(tmp_path / "results", 1)
    assert_same_weights(found["trained"].cvae, loaded.cvae)
    for example in (own, start, loop, mask, loop):
        exec(example, found)
    assert "CVAE (Monte Carlo)" in evaluate(found["cvae"], found["datasets"]["val"]).rows


def test_one_image_gives_figures_without_standard_errors(tmp_path):
    assert run(tmp_path, "--subset 1 -nq 3") == 0
    assert "±" not in (tmp_path / "results.md").read_text().split("\n", 1)[1]
    (only,) = json.loads((tmp_path / "metrics.json").read_text())["runs"]
    rows = only["results"]["q3"]["val"]["rows"]
    assert all(row["standard_error"] is None and row["num_images"] == 1 for row in rows.values())


def save_digits(folder, count=30):
    folder.mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    for number, image in enumerate(values):
        Image.fromarray(image).save(folder / f"{number:02}.png")


def test_output_inside_the_images_is_never_read_as_images(tmp_path, monkeypatch, capsys):
    """The data set is the folder in which the program is run, as is that of the results."""
    save_digits(tmp_path / "images" / "a")
    save_digits(tmp_path / "images" / "b")
    monkeypatch.chdir(tmp_path / "images")
    words = [*TINY[4:], "--dataset", ".", "-nq", "1"]
    for more in ([], ["3"]):
        assert main.main([*words, *more]) == 0
        assert (
            "(50 images), images validation split (10 images), 2 classes" in capsys.readouterr().out
        )
    assert list(pd.read_csv("results/results.csv", index_col=0)) == ["1 quadrant", "3 quadrants"]


@pytest.mark.parametrize("output", ["images", "images/a", "images/../images"])
def test_data_set_is_refused_as_the_output_folder(tmp_path, capsys, output):
    save_digits(tmp_path / "images" / "a")
    words = [*TINY[4:], "--dataset", str(tmp_path / "images"), "-nq", "1", "--output-dir"]
    before = sorted((tmp_path / "images").rglob("[!.]*"))
    assert main.main([*words, str(tmp_path / output)]) == 2
    assert "holds the data set: choose another --output-dir" in capsys.readouterr().err
    assert sorted((tmp_path / "images").rglob("[!.]*")) == before


def test_split_that_a_folder_brings_is_used_and_fractions_are_refused(tmp_path, capsys):
    for split, count in (("train", 20), ("Val", 10), ("test", 12)):
        save_digits(tmp_path / "images" / split / "a", count)
    words = [*TINY[4:], "--dataset", str(tmp_path / "images"), "-nq", "1", "--output-dir"]
    assert main.main([*words, str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "results.csv", index_col=0)
    assert list(table) == ["1 quadrant, validation", "1 quadrant, test"]
    said = capsys.readouterr().out
    assert (
        "(20 images), images validation set (10 images), images test set (12 images), 1 class,"
        in said
    )
    for option in (["--val-fraction", "0.3"], ["--holdout", "5"]):
        assert main.main([*words, str(tmp_path / "other"), *option]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert option[0] in line and "brings" in line
    assert run(tmp_path / "other", "-nq 1 --val-fraction 0.3") == 2
    assert "mnist-5k brings its own split (train, val): leave out" in error_line(capsys)


def test_home_folder_is_understood_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_digits(tmp_path / "images" / "a")
    words = [*TINY[4:], *"--dataset ~/images -nq 1 --output-dir ~/out --data-dir ~/x".split()]
    assert main.main(words) == 0
    assert (tmp_path / "out" / "results.csv").exists() and not (tmp_path / "~").exists()
