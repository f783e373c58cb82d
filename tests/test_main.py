import errno
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageSequence

import main
from cvae.model import CVAE
from cvae.run.output import lock_output
from cvae.run.settings import Settings
from cvae.storage.checkpoint import FORMAT

from .faults.runs import COARSE, outcome
from .storage.test_files import Hostile

ROOT = Path(__file__).parents[1]
PER_SETTING = [
    ("checkpoint", "pt"),
    ("cvae_plot", "png"),
    ("diversity", "png"),
    ("training", "csv"),
    ("training", "png"),
]
TINY = "--dataset mnist-5k --subset 40 -n 1 -p 2 --num-importance-samples 3 -vi 3 -vs 2".split()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def coarse_figures():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in COARSE.items():
            patch.setattr(f"cvae.figures.figures.{name}", value)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run of two settings that came to its end."""
    folder = tmp_path_factory.mktemp("finished")
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "copied", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "copied"


def test_tiny_run_writes_every_file(tmp_path, capsys):
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(tmp_path), "--seed", "5"]) == 0
    expected = {f"{net}_net_q{n}.pth" for net in ("baseline", "cvae") for n in (1, 3)}
    expected |= {f"{name}_q{n}.{ending}" for n in (1, 3) for name, ending in PER_SETTING}
    expected |= {"results.csv", "results.md", "metrics.json", "model.png", "problem.png"}
    assert set(files(tmp_path)) == expected

    assert "matplotlib.pyplot" not in sys.modules  # whose global state and windows no figure needs
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert list(table.columns) == ["1 quadrant", "3 quadrants"] and table.shape == (5, 2)
    assert table.index.name is None and (tmp_path / "results.csv").read_text().startswith(
        ",1 quadrant,3 "
    )
    split = "first 40 of the MNIST-5k validation split"
    assert split in (tmp_path / "results.md").read_text()
    out = capsys.readouterr().out
    assert (tmp_path / "results.md").read_text() in out and "reconstruction" in out

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["seed"] == 5 and metrics["dataset"] == "mnist-5k" and split in metrics["caption"]
    assert metrics["splits"]["val"] == {"name": split, "images": 40}
    assert metrics["settings"]["q1"]["cvae"]["epochs_run"] == 1
    assert set(metrics["settings"]["q3"]["versions"]) == {"python", "torch", "pyro"}

    cvae = CVAE()
    cvae.load_state_dict(torch.load(tmp_path / "cvae_net_q3.pth", weights_only=True))
    baseline = torch.load(tmp_path / "baseline_net_q3.pth", weights_only=True)
    assert all(
        torch.equal(value, cvae.baseline_net.state_dict()[name]) for name, value in baseline.items()
    )


def test_a_setting_does_not_depend_on_those_before_it(tmp_path):
    for name, settings in (("both", ["1", "2"]), ("alone", ["2"])):
        assert main.main([*TINY, "-nq", *settings, "--output-dir", str(tmp_path / name)]) == 0
    both, alone = (
        pd.read_csv(tmp_path / name / "results.csv", index_col=0) for name in ("both", "alone")
    )
    assert both["2 quadrants"].equals(alone["2 quadrants"])
    assert (
        files(tmp_path / "both")["cvae_plot_q2.png"]
        == files(tmp_path / "alone")["cvae_plot_q2.png"]
    )


def test_samples_and_figures_never_shift_training(tmp_path):
    for name, words in (
        ("few", ""),
        ("many", "-p 3 --num-importance-samples 5 -vi 2 -vs 1 --animate"),
    ):
        assert (
            main.main([*TINY, *words.split(), "-nq", "1", "--output-dir", str(tmp_path / name)])
            == 0
        )
    few, many = files(tmp_path / "few"), files(tmp_path / "many")
    assert few["cvae_net_q1.pth"] == many["cvae_net_q1.pth"]


def test_holdout_has_columns_for_both_splits_and_diagnostics_have_rows(tmp_path):
    words = "--holdout 30 --binarize --diagnostics -nq 2".split()
    assert main.main([*TINY, *words, "--output-dir", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "results.csv", index_col=0)
    assert (
        list(table.columns) == ["2 quadrants, validation", "2 quadrants, test"] and len(table) == 11
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {key: split["images"] for key, split in metrics["splits"].items()} == {
        "train": 40,
        "val": 30,
        "test": 40,
    }
    assert all("binarized" in split["name"] for split in metrics["splits"].values())
    val = metrics["results"]["q2"]["val"]["rows"]
    best = metrics["settings"]["q2"]["baseline"]["epochs"][-1]["val"]
    assert val["NN (baseline)"]["mean"] == pytest.approx(
        best, rel=1e-5
    )  # what decided when to stop


@pytest.mark.parametrize("size, recipe", [((32, 32), "best"), ((28, 20), "tutorial")])
def test_images_of_ones_own_from_files_to_figures(tmp_path, size, recipe):
    """An array of colours and a folder of grey files, which end in the same files."""
    images = torch.randint(0, 256, (20, *size), dtype=torch.uint8).numpy()
    np.savez(tmp_path / "images.npz", images=np.repeat(images[..., None], 3, -1))
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:02}.png")
    words = [*TINY[4:], "--recipe", recipe, "--val-fraction", "0.3", "-nq", "1"]
    for name in ("images.npz", "images"):
        folder = tmp_path / f"results {name}"
        assert (
            main.main([*words, "--dataset", str(tmp_path / name), "--output-dir", str(folder)]) == 0
        )
        text = (folder / "results.md").read_text()
        assert f"{name} validation split (6 images)" in text
        assert json.loads((folder / "metrics.json").read_text())["image_shape"] == list(size)
    array, folder = files(tmp_path / "results images.npz"), files(tmp_path / "results images")
    assert array["cvae_net_q1.pth"] == folder["cvae_net_q1.pth"]
    weights = torch.load(tmp_path / "results images" / "cvae_net_q1.pth", weights_only=True)
    assert weights["prior_net.fc1.weight"].shape == (500, size[0] * size[1])
    rows = json.loads(array["metrics.json"])["results"]["q1"]["val"]
    per_pixel = rows["diagnostics"]["Performance gap per pixel"]["mean"]
    assert per_pixel * size[0] * size[1] * 3 / 4 == pytest.approx(
        rows["rows"]["Performance gap"]["mean"]
    )


def test_images_of_ones_own_may_be_moved_but_not_changed(tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    words = [*TINY[4:], "-nq", "1", "--output-dir", str(tmp_path / "out"), "--dataset"]
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        np.savez(tmp_path / place / "images.npz", images=images)
        assert main.main([*words, str(tmp_path / place / "images.npz")]) == 0
        monkeypatch.setattr("cvae.training.loop._train_epoch", never)
    before = files(tmp_path / "out")
    np.savez(tmp_path / "reshaped.npz", images=images.reshape(20, 4, 16))
    assert main.main([*words, str(tmp_path / "reshaped.npz")]) == 2
    assert "(image shape [8, 8] there, [4, 16] here)" in capsys.readouterr().err
    assert main.main([*words, "mnist-5k"]) == 2
    assert "(dataset own images there, mnist-5k here; images [" in capsys.readouterr().err
    assert files(tmp_path / "out") == before


def test_bad_images_of_ones_own_are_told(tmp_path, capsys):
    np.savez(tmp_path / "images.npz", images=np.zeros((20, 7, 8), dtype=np.uint8))
    assert (
        main.main(
            [
                *TINY[2:],
                "--dataset",
                str(tmp_path / "images.npz"),
                "--output-dir",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "images.npz holds images of 7 x 8 pixels: height and width must be even" in line


def test_best_recipe_runs_and_its_weights_load(tmp_path):
    words = "--recipe best --baseline-epochs 1 -nq 3".split()
    assert main.main([*TINY, *words, "--output-dir", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    named = "recipe best with --num-epochs 1 --baseline-epochs 1 --num-importance-samples 3"
    assert f"{named} --subset 40 --num-particles 2, seed 0" in text
    weights = torch.load(tmp_path / "cvae_net_q3.pth", weights_only=True)
    CVAE(activation="silu", generation_input="xz").load_state_dict(weights)


def test_seeds_have_a_folder_each_and_a_table_of_means(tmp_path, capsys):
    assert (
        main.main([*TINY, "-nq", "1", "--seeds", "4", "5", "--output-dir", str(tmp_path / "both")])
        == 0
    )
    assert (
        main.main([*TINY, "-nq", "1", "--seed", "5", "--output-dir", str(tmp_path / "alone")]) == 0
    )
    both = tmp_path / "both"
    assert {path.name for path in both.iterdir()} - {".lock"} == {
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
    said = capsys.readouterr().out
    assert (both / "results.md").read_text() in said
    assert f"\nWritten to {both}, {both / 'seed_4'}, {both / 'seed_5'}\n" in said
    assert [run["seed"] for run in json.loads((both / "metrics.json").read_text())["runs"]] == [
        4,
        5,
    ]


def test_auto_falls_back_and_says_so_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="Using MNIST-5k instead"):
        assert main.main([*TINY[2:], "-nq", "2"]) == 0
    assert "MNIST-5k" in (tmp_path / "results" / "results.md").read_text()
    assert "MNIST-5k training split" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, status, complaint",
    [
        ("--data-dir {empty} --dataset mnist", 1, "can't be downloaded"),
        ("--device cuda", 2, "--device cuda is absent here"),
        ("--subset 5 -vi 6", 2, "--num-images 6 is more than the 5 images (first 5 of"),
        ("--holdout 4000", 2, "--holdout 4000 leaves no image to train on"),
        ("--subset 4001", 2, "--subset 4001 is more than the 4,000 training images"),
        ("--output-dir {file}/below", 2, "choose another --output-dir"),
        ("--output-dir " + "x" * 300, 2, "(File name too long): choose another --output-dir"),
        ("-lr 0.5", 2, "(learning rate 0.001 there, 0.5 here)"),
        ("--seed 1 -p 3", 2, "(seed 0 there, 1 here)"),
        ("--seeds 0 1", 2, "checkpoint_q1.pt is there from another run"),
        ("--output-dir {strange}", 2, "results.csv is there from another run"),
    ],
)
def test_failure_is_one_clear_line_and_overwrites_nothing(
    copied, tmp_path, monkeypatch, capsys, line, status, complaint
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").write_text("")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "results.csv").write_text("somebody's")
    before = files(copied) | files(strange)
    words = line.format(empty=tmp_path / "empty", file=tmp_path / "file", strange=strange).split()
    assert main.main([*TINY, "--output-dir", str(copied), *words]) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("main.py: error: ") and complaint in lines[-1]
    assert files(copied) | files(strange) == before


def test_loss_that_is_not_finite_ends_the_run(tmp_path, capsys):
    assert main.main([*TINY, "-lr", "1e30", "-n", "2", "--output-dir", str(tmp_path)]) == 1
    assert "loss is nan: try a smaller --learning-rate" in capsys.readouterr().err
    assert not files(tmp_path)


def test_debug_shows_where_an_error_came_from(tmp_path, capsys):
    words = [
        "--dataset",
        "mnist",
        "--data-dir",
        str(tmp_path),
        "--output-dir",
        str(tmp_path / "out"),
    ]
    for debug in ([], ["--debug"]):
        assert main.main([*words, *debug]) == 1
        assert ("Traceback" in capsys.readouterr().err) == bool(debug)


def never(*_):
    raise AssertionError("this was done before")


def test_finished_run_is_repeated_from_what_is_stored(copied, monkeypatch, capsys):
    before = files(copied)
    table = (copied / "results.md").read_text()
    (copied / "cvae_plot_q1.png").unlink()
    (copied / "cvae_net_q3.pth").write_text("damaged")
    monkeypatch.setattr("cvae.training.loop._train_epoch", never)
    monkeypatch.setattr("cvae.evaluate.evaluate", never)
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(copied)]) == 0
    out = capsys.readouterr().out
    assert table in out and out.count(", epoch ") == 0
    assert files(copied) == before


def test_other_numbers_of_samples_evaluate_anew_without_training(
    copied, finished, tmp_path, monkeypatch
):
    more = [*TINY, "-p", "4", "--num-importance-samples", "5"]
    assert main.main([*more, "-nq", "1", "3", "--output-dir", str(tmp_path / "whole")]) == 0
    stored = torch.load(copied / "checkpoint_q3.pt", weights_only=True)
    del stored["parts"]["outcome"]  # interrupted between training and evaluation
    torch.save(stored, copied / "checkpoint_q3.pt")
    monkeypatch.setattr("cvae.training.loop._train_epoch", never)

    assert main.main([*more, "-nq", "1", "--output-dir", str(copied)]) == 0
    metrics = json.loads((copied / "metrics.json").read_text())
    assert (
        metrics["arguments"]["num_particles"] == "4"
        and "Monte Carlo 4 and the others 5" in metrics["caption"]
    )
    assert set(metrics["results"]) == {"q1"}
    assert main.main([*more, "-nq", "3", "--output-dir", str(copied)]) == 0
    assert outcome(copied) == outcome(tmp_path / "whole")
    assert main.main([*TINY, "-nq", "1", "--output-dir", str(copied)]) == 0
    assert list(pd.read_csv(copied / "results.csv", index_col=0)) == ["1 quadrant"]
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(copied)]) == 0
    assert outcome(copied) == outcome(finished)


def test_settings_of_one_command_after_another_share_a_table(finished, tmp_path):
    for n in "31":
        assert main.main([*TINY, "-nq", n, "--output-dir", str(tmp_path)]) == 0
    assert outcome(tmp_path) == outcome(finished)


def test_animation_of_an_interrupted_run_is_that_of_a_whole_one(tmp_path, monkeypatch):
    words = [*TINY, "-nq", "2", "-n", "3", "--animate", "--output-dir"]
    assert main.main([*words, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        place = "cvae.training.loop._validate_epoch"
        patch.setattr(place, _stopping_after(4, place, signal.SIGINT))
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        assert main.main([*words, str(tmp_path / "cut")]) == 130
    for each, handler in zip((signal.SIGINT, signal.SIGTERM), before):
        signal.signal(each, handler)
    assert main.main([*words, str(tmp_path / "cut")]) == 0
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "cut")
    with Image.open(tmp_path / "cut" / "training_q2.gif") as picture:
        assert len(list(ImageSequence.Iterator(picture))) == 3 * 3


def test_finished_run_is_animated_when_asked_and_drawn_anew(copied, monkeypatch):
    before = files(copied)
    for name in before:
        if not name.startswith("checkpoint"):
            (copied / name).unlink()
    monkeypatch.setattr("cvae.training.loop._train_epoch", never)
    monkeypatch.setattr("cvae.evaluate.evaluate", never)
    assert main.main([*TINY, "-nq", "1", "3", "--animate", "--output-dir", str(copied)]) == 0
    after = files(copied)
    assert {name for name in after if name not in before} >= {"training_q1.gif", "training_q3.gif"}
    assert {name: after[name] for name in before} == before


def test_end_of_a_run_names_its_folder_and_quiet_is_for_tables_alone(copied, capsys):
    words = [*TINY, "-nq", "1", "3", "--output-dir", str(copied)]
    assert main.main(words) == 0
    said, table = capsys.readouterr().out, (copied / "results.md").read_text()
    assert re.findall("^Written to (.*)$", said, re.MULTILINE) == [str(copied)]
    assert re.search(r"^Total time: \d\d:\d\d$", said, re.MULTILINE)
    assert main.main([*words, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == table.strip() and not captured.err


def test_ffmpeg_that_fails_costs_the_video_alone(copied, monkeypatch, capsys):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(1, "ffmpeg")

    monkeypatch.setattr("cvae.figures.figures.shutil.which", lambda program: program)
    monkeypatch.setattr("cvae.figures.animation.subprocess.run", fail)
    assert main.main([*TINY, "-nq", "1", "3", "--animate", "--output-dir", str(copied)]) == 0
    assert "training_q1.gif" in files(copied) and "training_q1.mp4" not in files(copied)
    assert f"no {copied}/training_q1.mp4: " in capsys.readouterr().out


def test_readme_shows_how_to_use_what_a_run_leaves(finished, monkeypatch, tmp_path):
    _, example = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shutil.copytree(finished, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cvae.data.resolve_dataset", lambda *_: "mnist-5k")
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["completions"].shape == (10, 100, 28, 28) and found["nll"].shape == (100,)


def test_overwrite_starts_afresh(copied, monkeypatch, capsys):
    (copied / "notes.txt").write_text("mine")
    assert (
        main.main([*TINY, "-nq", "2", "--seed", "1", "--overwrite", "--output-dir", str(copied)])
        == 0
    )
    table = pd.read_csv(copied / "results.csv", index_col=0)
    assert (
        list(table.columns) == ["2 quadrants"] and "seed 1" in (copied / "results.md").read_text()
    )
    assert {name for name in files(copied) if "q1" in name or "q3" in name} == set()
    assert (copied / "notes.txt").read_text() == "mine"


def test_overwrite_deletes_nothing_while_another_run_is_writing(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "seed_0")
    with lock_output(Settings(output_dir=tmp_path / "seed_0")):
        assert main.main([*TINY, "--seeds", "1", "--overwrite", "--output-dir", str(tmp_path)]) == 1
    assert "another run is writing to" in capsys.readouterr().err
    assert files(tmp_path / "seed_0") == files(finished)


def test_single_run_is_not_put_among_seeds(tmp_path, capsys):
    words = [*TINY, "-nq", "3", "--output-dir", str(tmp_path)]
    assert main.main([*words, "--seeds", "0", "1"]) == 0
    assert main.main(words) == 2
    assert "seed_0/checkpoint_q3.pt is there from another run" in capsys.readouterr().err
    assert main.main([*words, "--seeds", "0", "1", "2"]) == 0  # more of them go on
    assert "mean of seeds 0, 1, 2" in capsys.readouterr().out
    assert main.main([*words, "--overwrite"]) == 0
    assert not list(tmp_path.glob("seed_*/[!.]*"))


@pytest.mark.parametrize(
    "name, place, stride",
    [
        ("SIGINT", "cvae.training.loop._validate_epoch", 1),
        ("SIGTERM", "cvae.evaluate.evaluate", 1),
        ("SIGINT", "cvae.storage.files.os.replace", 7),
    ],
)
def test_stopped_run_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path, finished, monkeypatch, capsys, name, place, stride
):
    """Stop at the place, again and again and ever later, until the run comes to its end."""
    words = [*TINY, "-nq", "1", "3", "--output-dir", str(tmp_path)]
    number, stops = getattr(signal, name), 0
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    while stops < 70:
        with monkeypatch.context() as patch:
            patch.setattr(place, _stopping_after(stops, place, number))
            status = main.main(words)
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), before):
            signal.signal(each, handler)
        if status == 0:
            break
        stops += stride
        assert status == 128 + number
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert (
            line
            == f"main.py: stopped by {name}: the same command resumes after the last finished epoch"
        )
    assert stops > 1 and outcome(tmp_path) == outcome(finished)


def _stopping_after(calls, place, number):
    module, name = place.rsplit(".", 1)
    original = getattr(
        importlib.import_module(module.removesuffix(".os")), "os" if ".os" in place else name
    )
    original = getattr(original, name, original)

    def call(*args, **kwargs):
        nonlocal calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    return call


@pytest.mark.parametrize("written", [0, 4, 14, 20])
def test_full_disk_ends_the_run_which_goes_on_with_room(
    tmp_path, finished, monkeypatch, capsys, written
):
    """The disk has room for so many files, and then for none."""
    files_written = 0

    def fill(file):
        nonlocal files_written
        files_written += 1
        if files_written > written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    words, fsync = [*TINY, "-nq", "1", "3", "--output-dir", str(tmp_path)], os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        assert main.main(words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.match(
        "main.py: error: can't write .* .No space left on device.: what was saved before is", line
    )
    assert not list(tmp_path.glob(".*.part"))
    assert main.main(words) == 0 and outcome(tmp_path) == outcome(finished)


def test_removed_folder_ends_the_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "results"
    monkeypatch.setattr("cvae.run.results.save_weights", lambda *_: shutil.rmtree(folder))
    assert main.main([*TINY, "-nq", "3", "--output-dir", str(folder)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("main.py: error: can't write") and "No such file or directory" in line


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-100]),
            "is damaged, or no file of PyTorch",
        ),
        (lambda path: path.write_bytes(b""), "is damaged, or no file of PyTorch"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
        (
            lambda path: torch.save({"format": FORMAT}, path),
            "does not fit this run (KeyError: 'settings')",
        ),
        (
            lambda path: torch.save(Hostile(path.with_name("made")), path),
            "holds more than tensors and plain values",
        ),
        (lambda path: change(path, "outcome", {}), "does not fit this run"),
        (
            lambda path: change(path, "outcome", {"evaluations": {"val": {"rows": 3}}}),
            "does not fit this run",
        ),
        (lambda path: change(path, "CVAE", {"epochs": []}), "does not fit this run"),
    ],
)
def test_damaged_checkpoint_is_refused_and_stays(copied, capsys, damage, complaint):
    damage(copied / "checkpoint_q3.pt")
    before = files(copied) if complaint != "is not a file" else {}
    assert main.main([*TINY, "-nq", "1", "3", "--output-dir", str(copied)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (
        line.startswith(f"main.py: error: {copied}/checkpoint_q3.pt {complaint}")
        and "--overwrite" in line
    )
    assert not before or files(copied) == before


def test_snapshots_of_other_images_are_refused(copied, capsys):
    path = copied / "checkpoint_q3.pt"
    change(path, "CVAE", shrunk(path))
    before = files(copied)
    assert main.main([*TINY, "-nq", "1", "3", "--animate", "--output-dir", str(copied)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("main.py: error: ")
    assert line.endswith(
        "snapshots of the checkpoint are of other images: start afresh with --overwrite"
    )
    after = files(copied)
    assert {name: after[name] for name in before} == before and "training_q3.gif" not in after


def change(path, part, content):
    stored = torch.load(path, weights_only=True)
    stored["parts"][part] = content
    torch.save(stored, path)


def shrunk(path):
    """The CVAE's part with snapshots of smaller images."""
    part = torch.load(path, weights_only=True)["parts"]["CVAE"]
    return part | {"snapshots": [snapshot[..., :14, :14].clone() for snapshot in part["snapshots"]]}


def test_streams_that_can_not_be_written_to(tmp_path):
    """Closed ones are done without, and a full one ends the run; neither shows a traceback."""
    words = " ".join([sys.executable, "main.py", *TINY, "-nq", "3", "--output-dir"])
    statuses = {">&- 2>&-": 0, ">/dev/full": 1}
    runs = {
        stream: subprocess.Popen(
            ["bash", "-c", f"{words} {tmp_path}/{status}{number} {stream}"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, (stream, status) in enumerate(statuses.items())
    }
    for number, (stream, status) in enumerate(statuses.items()):
        errors = runs[stream].communicate()[1]
        assert runs[stream].returncode == status
        assert "Traceback" not in errors and "Exception" not in errors
        assert (tmp_path / f"{status}{number}" / "results.md").exists() == (status == 0)


def test_second_run_in_a_folder_is_refused(tmp_path, capsys):
    program = """if True:
        import filelock, sys
        lock = filelock.FileLock(sys.argv[1])
        lock.acquire()
        print("held", flush=True)
        input()
    """
    command = [sys.executable, "-c", program, str(tmp_path / ".lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert main.main([*TINY, "--output-dir", str(tmp_path)]) == 1
        assert f"another run is writing to {tmp_path}: wait for it" in capsys.readouterr().err
        other.kill()
    assert (
        main.main([*TINY, "-nq", "3", "--output-dir", str(tmp_path)]) == 0
    )  # a dead run holds nothing


def test_a_single_image_gives_figures_without_standard_errors(tmp_path):
    assert (
        main.main([*TINY, "--subset", "1", "-vi", "1", "-nq", "3", "--output-dir", str(tmp_path)])
        == 0
    )
    assert "±" not in (tmp_path / "results.md").read_text().split("\n", 1)[1]
    rows = json.loads((tmp_path / "metrics.json").read_text())["results"]["q3"]["val"]["rows"]
    assert all(row["standard_error"] is None and row["num_images"] == 1 for row in rows.values())


@pytest.mark.parametrize(
    "variables, complaint",
    [
        ("RANK=1", "--num-images 41 is more than"),
        ("RANK=x", "--num-images 41 is more than"),
        ("RANK=", "--num-images 41 is more than"),
        ("WORLD_SIZE=2", "--num-images 41 is more than"),
        (
            "RANK=x WORLD_SIZE=2 MASTER_ADDR=first MASTER_PORT=29500",
            "RANK=x, LOCAL_RANK=0, WORLD_SIZE=2, ",
        ),
    ],
)
def test_variables_of_other_programs_are_ignored_or_refused(
    tmp_path, monkeypatch, capsys, variables, complaint
):
    for name, value in (word.split("=") for word in variables.split()):
        monkeypatch.setenv(name, value)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # in case the run replaces them
    assert main.main([*TINY, "-vi", "41", "--output-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"main.py: error: {complaint}")
