"""Whoever edits and runs again gets what the edited code computes, or is told why not."""

import json
import linecache
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

import main
from cvae import complete
from cvae.demo import write_demo
from cvae.experiment.code import LAYERS, NO_SOURCE, forget_sources, hash_code, hash_net
from cvae.experiment.jobs import run_side_by_side
from cvae.experiment.models import find_model
from cvae.files import FileError, UsageError
from cvae.model import CVAE, Encoder
from cvae.trained import TrainedCVAE

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM
from .faults import ROOT

TINY = "--dataset mnist-5k --subset 40 -n 1 -nq 1 -p 2 --num-importance-samples 3 --quiet"
MINE = '''
"""A model of one's own."""
import pyro.distributions as dist
from cvae.model import CVAE, Encoder
from layers import *
from layers import WIDTH, Scale

LOC = 1.0
TABLE = {"width": 1.0}
TABLE.update(width=2.0)
TABLE["width"] -= 1
double = lambda value: 2 * value

class Mine(CVAE):
    def prior(self, xs):
        normal = super().prior(xs).base_dist
        return dist.Laplace(LOC + normal.loc, shared(normal.scale)).to_event(1)

def shared(scale):
    return Scale.of(scale) * WIDTH * double(TABLE["width"]) / SIZES[0]

def unrelated():
    return 3
'''
LAYERS_FILE = """
from typing import NamedTuple

WIDTH = 2 * 0.5
SIZES = [2]

class Named(NamedTuple):
    value: float

class Scale:
    power = Named(1).value

    @staticmethod
    def of(scale):
        return scale ** Scale.power
"""
# What is replaced, in which of the two files, and which of them then is another.
EDITS = [
    ("dist.Laplace", "dist.Normal", "mine.py"),
    ("LOC = 1.0", "LOC = 2.0", "mine.py"),
    ("* WIDTH", "/ WIDTH", "mine.py"),
    ("2 * 0.5", "3 * 0.5", "layers.py"),
    ("scale ** Scale", "2 * scale ** Scale", "layers.py"),
    ("Named(1)", "Named(2)", "layers.py"),
    ("width=2.0", "width=3.0", "mine.py"),
    ('"width"] -= 1', '"width"] -= 2', "mine.py"),
    ("2 * value", "3 * value", "mine.py"),
    ("[2]", "[3]", "layers.py"),
]
NO_EDITS = [
    ("A model", "One model"),
    ("LOC = 1.0\n", "LOC = (  # why\n    1.0\n)\n\n"),
    ("def shared(scale):\n", 'def shared(scale):\n    """Scale."""\n\n'),
    ("return 3", "return 4"),
    ("WIDTH, Scale", "(Scale, WIDTH)"),
]


@pytest.fixture
def write(tmp_path, monkeypatch) -> Iterator[Callable[..., str]]:
    """Write the two files with an edit, as if Python had not loaded them before."""

    def write(old: str = "", new: str = "") -> str:
        for name, text in (("mine", MINE), ("layers", LAYERS_FILE)):
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        forget_sources()
        return f"{tmp_path}/mine.py:Mine"

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits within a second
    yield write
    for name in ("mine", "layers"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("cvae.experiment.pictures.Pictures.draw", lambda *_: None)
    monkeypatch.setattr("main.write_demos", lambda *_: None)


def code_of(name: str) -> dict[str, str]:
    return hash_code([find_model(name)])


def changed(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return [file for file in sorted(one | other) if one.get(file) != other.get(file)]


@pytest.mark.parametrize("old, new, file", EDITS)
def test_whatever_a_class_uses_is_its_code(write, old, new, file):
    assert changed(code_of(write()), code_of(write(old, new))) == [file]


@pytest.mark.parametrize("old, new", NO_EDITS)
def test_comments_and_formatting_are_not(write, old, new):
    before = code_of(write())
    assert "cvae/model.py" in before and code_of(write(old, new)) == before


def test_what_is_set_from_outside_is_code_too(write, monkeypatch):
    before = code_of(write())
    model = find_model(write())
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["layers"].Scale, "power", 3)
        assert changed(before, hash_code([model])) == ["layers.py"]
    with monkeypatch.context() as patch:
        patch.setattr(CVAE, "posterior", code_of)
        assert "tests/test_code.py" in changed(before, hash_code([model]))
    assert hash_code([model]) == before


def test_a_file_that_was_edited_after_it_had_been_loaded_is_refused(write, tmp_path):
    model = find_model(write())
    (tmp_path / "mine.py").write_text(MINE.replace("LOC +", "LOC -"))
    with pytest.raises(UsageError, match=r"mine.py was changed after .*: restart Python"):
        hash_code([model])


def test_cells_of_a_notebook_have_code_and_what_has_none_is_never_the_same(monkeypatch):
    cell = "class Cell(CVAE):\n    def prior(self, xs):\n        return {}\n"

    def typed(text: str, file: str, keep: bool = True) -> dict[str, str]:
        namespace: dict[str, Any] = {"__name__": "__main__", "CVAE": CVAE, "SCALE": 3}
        if keep:
            linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        exec(compile(text, file, "exec"), namespace)
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        vars(sys.modules["__main__"]).update(namespace)
        return hash_code([namespace["Cell"]])

    before = typed(cell.format("SCALE"), "<cell 1>")
    assert typed("# Later\n\n" + cell.format("SCALE"), "<cell 2>") == before
    assert changed(typed(cell.format("SCALE + 1"), "<cell 3>"), before) == ["__main__"]
    lost = [typed(cell.format("SCALE"), "<stdin>", keep=False) for _ in range(2)]
    assert changed(*lost) == [f"Cell{NO_SOURCE}"]


def test_layers_and_values_of_a_net_are_known_and_compiled_ones_are_the_same():
    net = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2)
    before = hash_net(net)
    for other in (CVAE(Z_DIM, HIDDEN_1 + 1, HIDDEN_2), CVAE(Z_DIM, HIDDEN_1, HIDDEN_2)):
        other.temperature = 2.0
        assert changed(hash_net(other), before) == [LAYERS]
    net.prior_net = torch.compile(net.prior_net)
    assert changed(hash_net(net), before) == []
    net.prior_net = OwnEncoder(Z_DIM, HIDDEN_1, HIDDEN_2)
    assert changed(hash_net(net), before) == [LAYERS, "tests/test_code.py"]


class OwnEncoder(Encoder):
    pass


class OwnCVAE(CVAE):
    pass


def run(folder: Path, model: str, line: str = "") -> int:
    return main.main([*TINY.split(), "--output-dir", str(folder), "--model", model, *line.split()])


def results(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    table = pd.read_csv(folder / "results.csv", index_col=0)
    return table, json.loads((folder / "metrics.json").read_text())


def test_run_of_other_code_is_refused_or_kept_and_marked(write, tmp_path, capsys):
    folder = tmp_path / "out"
    assert run(folder, write()) == 0
    before, metrics = results(folder)
    assert metrics["arguments"]["model"] == "mine.py:Mine" and not metrics["other_code"]
    assert "--model mine.py:Mine" in metrics["recipe"]
    assert run(folder, write("A model", "One model")) == 0
    edited = write("dist.Laplace", "dist.Normal")
    for line in ("", "-p 3", "-nq 3"):
        assert run(folder, edited, line) == 2
        error = capsys.readouterr().err
        assert "checkpoint_q1.pt was trained by other code (changed: mine.py): choose" in error
        assert "--output-dir, or start afresh with --overwrite, or keep" in error
        assert results(folder)[0].equals(before)
    assert run(folder, edited, "--keep-trained") == 0
    table, metrics = results(folder)
    assert metrics["other_code"] == {"1 quadrant": ["mine.py"]}
    assert "trained by other code: 1 quadrant (mine.py)" in metrics["caption"]
    # The nets are the same, but for the prior, which does not occur in the baseline.
    same = table["1 quadrant"] == before["1 quadrant"]
    assert same["NN (baseline)"] and not same["CVAE (Monte Carlo)"]
    assert run(folder, edited, "--overwrite") == 0
    assert not results(folder)[1]["other_code"]


def test_means_are_of_one_code(write, tmp_path, capsys):
    line = "--seeds 0 1"
    assert run(tmp_path / "out", write(), line) == 0
    edited = write("LOC = 1.0", "LOC = 2.0")
    assert run(tmp_path / "out", edited, line + " 2") == 2
    assert "trained by other code (changed: mine.py)" in capsys.readouterr().err
    assert run(tmp_path / "out", edited, line + " 2 --keep-trained") == 2
    assert "the seeds would be trained by different code: choose" in capsys.readouterr().err
    assert run(tmp_path / "out", edited, line + " --keep-trained") == 0
    assert "trained by other code" in results(tmp_path / "out")[1]["caption"]
    before, other = results(tmp_path / "out")[0], "--seeds 2 3"
    assert run(tmp_path / "out", edited, other) == 2
    assert "trained by other code (changed: mine.py)" in capsys.readouterr().err
    assert run(tmp_path / "out", write("LOC = 2.0", "LOC = 1.0"), other + " -lr 0.1") == 2
    assert "is of a run with other options" in capsys.readouterr().err
    assert results(tmp_path / "out")[0].equals(before)


def test_interrupted_run_is_resumed_by_its_own_code_alone(write, tmp_path, capsys, monkeypatch):
    model, folder = write(), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("math.isfinite", lambda loss: loss > 0 and stop())
        with pytest.raises(ZeroDivisionError):
            run(folder, model, "-n 3")
    for line in ("-n 3", "-n 3 --keep-trained"):
        assert run(folder, write("LOC = 1.0", "LOC = 2.0"), line) == 2
        error = capsys.readouterr().err
        assert "is of an unfinished training by other code" in error
        assert "--keep-trained" not in error
    assert run(folder, write(), "-n 3") == 0


def stop(calls: Iterator[int] = iter(range(99))) -> bool:
    return bool(1 / (next(calls) - 8)) or True


def test_model_goes_through_jobs_and_is_asked_for_by_whatever_loads(
    write, tmp_path, capsys, monkeypatch
):
    coarse = str(ROOT / "tests/faults/coarse.py")
    monkeypatch.setattr(
        main, "run_side_by_side", lambda run, n, _: run_side_by_side(run, n, coarse)
    )
    one, both, line = tmp_path / "one", tmp_path / "both", "-nq 1 3"
    assert run(one, write(), line) == 0
    assert run(both, write(), line + " --jobs 2") == 0
    assert results(one)[0].equals(results(both)[0])
    model = find_model(write())
    trained = TrainedCVAE.load(one, 1, model=model)
    assert isinstance(trained.cvae, model)
    with pytest.raises(
        FileError, match="one holds a model of class mine.py:Mine, not cvae.model:CVAE"
    ):
        TrainedCVAE.load(one, 1)
    with pytest.raises(FileError, match="mine.py:Mine, not tests.test_code:OwnCVAE"):
        TrainedCVAE.load(one, 1, model=OwnCVAE)
    # Of a file that is called as the plain model's, too.
    metrics = (one / "metrics.json").read_text()
    (one / "metrics.json").write_text(metrics.replace("mine.py:Mine", "model.py:CVAE"))
    with pytest.raises(FileError, match="model.py:CVAE, not cvae.model:CVAE"):
        TrainedCVAE.load(one, 1)
    (one / "metrics.json").write_text(metrics.replace("mine.py:Mine", "cvae.model:CVAE"))
    with pytest.raises(FileError, match="cvae.model:CVAE, not model:CVAE"):
        TrainedCVAE.load(one, 1, model=type("CVAE", (CVAE,), {"__module__": "model"}))
    (one / "metrics.json").write_text(metrics)
    with pytest.raises(FileError, match="the page can't compute a model with prior of its own"):
        write_demo(one, Path("data"), model=model)
    Image.new("L", (28, 28)).save(tmp_path / "digit.png")
    words = [str(one), str(tmp_path / "digit.png"), "--output", str(tmp_path / "completions.png")]
    assert complete.main(words) == 1 and "mine.py:Mine" in capsys.readouterr().err
    assert complete.main([*words, "--model", write()]) == 0 and not capsys.readouterr().err
    edited = write("LOC = 1.0", "LOC = 2.0")
    assert complete.main([*words, "--model", edited]) == 0
    warning = "warning: cvae_net_q1.pth was trained by other code (changed: mine.py)"
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, problem",
    [
        ("nowhere.py:Mine", "there is no file"),
        ("nowhere.models:Mine", "there is no module 'nowhere'"),
        ("cvae.model:Mine", "cvae.model has no class 'Mine'"),
        ("cvae.model:MAX_LOG_SCALE", "has no class 'MAX_LOG_SCALE'"),
        ("mine.py", "is neither mine.py:Name nor package.module:Name"),
        ("{tmp}/model_of_cvae/ast.py:Mine", "ast.py has that name too: rename the file"),
    ],
)
def test_models_that_are_not_there_are_refused(tmp_path, capsys, monkeypatch, name, problem):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "model_of_cvae").mkdir()
    (tmp_path / "model_of_cvae/ast.py").touch()
    words = [*TINY.split(), "--output-dir", str(tmp_path), "--model", name.format(tmp=tmp_path)]
    try:
        assert main.main(words) == 2
    except SystemExit as error:
        assert error.code == 2
    assert problem in capsys.readouterr().err


def test_class_of_main_is_used_and_can_not_reach_other_processes(write, tmp_path, monkeypatch):
    model = find_model(write())
    monkeypatch.setattr(main, "CVAE", model)
    words = [*TINY.split(), "--output-dir"]
    assert main.main([*words, str(tmp_path / "patched")]) == 0
    assert results(tmp_path / "patched")[1]["arguments"]["model"] == "mine:Mine"
    monkeypatch.setattr(model, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Mine", model, raising=False)
    assert main.main([*words, str(tmp_path / "jobs"), "--jobs", "2", "-nq", "1", "2"]) == 2


def test_edited_project_trains_again_evaluates_again_or_does_nothing(tmp_path):
    """From the edit to the table, in a copy of the whole project."""
    copy, words = tmp_path / "copy", [*TINY.split(), "-vi", "2", "-vs", "1", "--output-dir", "out"]
    copy.mkdir()
    shutil.copy(ROOT / "main.py", copy)
    shutil.copytree(ROOT / "cvae", copy / "cvae", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/faults", copy / "tests/faults")

    def answer(*edits: tuple[str, str, str], line: str = "") -> tuple[int, str, list[str]]:
        texts = {copy / file: (copy / file).read_text() for file, _, _ in edits}
        for file, old, new in edits:
            assert old in (text := (copy / file).read_text())
            (copy / file).write_text(text.replace(old, new, 1))
        command = [sys.executable, "-m", "tests.faults.coarse", *words, *line.split()]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        for file, text in texts.items():
            file.write_text(text)
        changed = re.findall(r"trained by other code .changed: (.*?)\)", done.stderr)
        return (
            done.returncode,
            ", ".join(changed),
            (copy / "out/results.csv").read_text().split("\n"),
        )

    status, _, table = answer()
    assert status == 0
    comment = ("cvae/model.py", "    def prior(", "    # A comment.\n\n\n    def prior(")
    row = ("cvae/evaluate.py", "values = {\n", 'values = {\n        "Twice": (2 * elbo, 1),\n')
    estimator = ("cvae/estimators.py", "return -log_w.mean(0)", "return 1000 - log_w.mean(0)")
    status, _, edited = answer(comment, row, estimator)
    assert status == 0 and [line.split(",")[0] for line in edited[1:3]] == [
        "Twice",
        "NN (baseline)",
    ]
    values = [dict(line.split(",") for line in lines[1:-1]) for lines in (table, edited)]
    assert float(values[1]["CVAE (Monte Carlo)"]) - float(
        values[0]["CVAE (Monte Carlo)"]
    ) == pytest.approx(1000)
    edits = [
        ("main.py", "pre_trained_baseline_net=", "hidden_2=128, pre_trained_baseline_net="),
        ("cvae/optimizer.py", "(0.9, ", "(0.8, "),
        ("cvae/train.py", "loss.backward()", "(2 * loss).backward()"),
    ]
    assert answer(*edits) == (2, "cvae/optimizer.py, cvae/train.py, main.py", edited)
    particles = ("main.py", "=config.evaluation.num_particles", "=7")
    assert answer(particles) == (2, "main.py", edited)
    assert answer(particles, line="--keep-trained")[0] == 0
    assert "Monte Carlo 7 and the others 3 particles" in (copy / "out/results.md").read_text()
    plain = ("main.py", "find_model(config.model.model)(", "type('Mine', (CVAE,), {})(")
    status, changed, _ = answer(plain, line="--output-dir other")
    assert (status, changed) == (2, "")
