"""A run resumes from its checkpoint as if it had not been interrupted."""

import random

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from cvae.config import TrainingConfig
from cvae.experiment.checkpoint import Checkpoint, random_state, seed_stage, set_random_state
from cvae.files import FileError, UsageError
from cvae.model import CVAE
from cvae.train import BaselineTraining, CVAETraining, Phase, Training, importance_weighted_elbo

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, assert_same_weights


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint_q1.pt"


def make_training(kind, few, seed=0) -> Training:
    pyro.set_rng_seed(seed)
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2)
    config = TrainingConfig(num_epochs=4, early_stop_patience=9, learning_rate=1e-2)
    if kind is BaselineTraining:
        return BaselineTraining(cvae.baseline_net, few, config, name="1 quadrant")
    phases = [Phase(2, Trace_ELBO(), shift=1), Phase(2, importance_weighted_elbo(2))]
    return CVAETraining(cvae, few, config, phases=phases, name="1 quadrant")


def train(training, checkpoint, snapshots=None, fail_in=0):
    """Iterate, taking snapshots, until the body of the loop fails in an epoch."""
    snapshots = [] if snapshots is None else snapshots
    for epoch in checkpoint.each_epoch(training, snapshots):
        if epoch == fail_in:
            raise ZeroDivisionError
        snapshots.append(torch.rand(2))
    return training


@pytest.mark.parametrize("kind", [BaselineTraining, CVAETraining])
def test_epoch_whose_body_failed_is_not_saved_and_repeated(few, path, kind):
    """Again and again, with the same checkpoint or with one that is read from the file."""
    taken: list[torch.Tensor] = []
    whole = train(make_training(kind, few), Checkpoint(path.with_name("whole"), {}), taken)
    checkpoint = Checkpoint(path, {})
    for epoch in (2, 2, 4):
        with pytest.raises(ZeroDivisionError):
            train(make_training(kind, few, seed=0 if epoch == 2 else 7), checkpoint, fail_in=epoch)
        assert len(Checkpoint(path, {}).stages[whole.stage]["epochs"]) == epoch - 1
    for last in (checkpoint, Checkpoint(path, {})):
        snapshots: list[torch.Tensor] = []
        resumed = train(make_training(kind, few, seed=7), last, snapshots)
        assert_same_weights(resumed.net, whole.net)
        assert torch.equal(torch.stack(snapshots), torch.stack(taken))
        both = ([epoch["val"] for epoch in each.history.epochs] for each in (resumed, whole))
        assert next(both) == next(both)


def test_each_epoch_is_saved_and_logged_after_its_body(few, path, caplog):
    """An epoch with a ``break`` is not, and evaluations are of the weights that are saved."""
    caplog.set_level("INFO", "cvae")
    checkpoint = Checkpoint(path, {})
    for epoch in checkpoint.each_epoch(make_training(CVAETraining, few)):
        assert len(caplog.messages) == epoch - 1
        if epoch == 2:
            checkpoint.save(evaluation="of two epochs")
            break
    assert len(Checkpoint(path, {}).stages["CVAE"]["epochs"]) == 1
    train(make_training(CVAETraining, few), Checkpoint(path, {}))
    assert Checkpoint(path, {}).stages.keys() == {"CVAE"}
    assert Checkpoint(path, {}).stages["CVAE"].keys() == {
        *("epochs", "best", "snapshots", "code", "net")
    }
    first, resumed, *others = caplog.messages
    assert first.startswith("1 quadrant, CVAE, epoch 1/4: training ")
    assert "(reconstruction " in first and " + KL " in first and ", at most 00:0" in first
    assert resumed == "1 quadrant, CVAE: resumed after epoch 1"
    assert [message.split(":")[0][-3:] for message in others] == ["2/4", "3/4", "4/4"]
    assert "KL" not in others[-1]


def test_values_that_no_checkpoint_holds_are_warned_of_once(few, path, caplog):
    """As a weight of the KL term that the body of the loop raises."""
    training = make_training(CVAETraining, few)
    training.net.weight = 0.1  # type: ignore[assignment]
    for epoch in Checkpoint(path, {}).each_epoch(training):
        training.net.weight = epoch / 10  # type: ignore[assignment]
        training.net.prior_net.seen = epoch  # type: ignore[union-attr]
    names = ["prior_net.seen", "weight"]
    messages = [record.message for record in caplog.records if record.levelname == "WARNING"]
    for number, (message, name) in enumerate(zip(messages, names, strict=True), 1):
        assert f"1 quadrant, CVAE, epoch {number}, changes {name}: make it a buffer" in message


def test_model_of_another_class_than_the_configs_is_refused(few, path):
    """Its weights would be loaded as that of the config."""
    training = make_training(CVAETraining, few)
    with pytest.raises(UsageError, match="model is mine.py:Mine, not cvae.model:CVAE: name"):
        next(Checkpoint(path, {"model": "mine.py:Mine"}).each_epoch(training))
    assert next(Checkpoint(path, {"model": "cvae.model:CVAE"}).each_epoch(training)) == 1


@pytest.mark.parametrize(
    "keys, value",
    [
        (["epochs"], 3),
        (["weights", "prior_net.fc1.bias"], torch.ones(7)),
        (["optimizer", "moments", "theirs"], {}),
        (["random"], [{"cpu": torch.zeros(3)}]),
    ],
)
def test_part_that_does_not_fit_is_refused_by_name(few, path, keys, value):
    with pytest.raises(ZeroDivisionError):
        train(make_training(CVAETraining, few), Checkpoint(path, {}), fail_in=2)
    checkpoint = Checkpoint(path, {})
    content = checkpoint.stages["CVAE"]
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value
    with pytest.raises(FileError, match="checkpoint_q1.pt is damaged, or of another version"):
        train(make_training(CVAETraining, few), checkpoint)


def test_checkpoint_is_what_was_saved(tmp_path):
    config = {"seed": 3, "max_grad_norm": float("inf"), "subset": None}
    checkpoint = Checkpoint(tmp_path / "file.pt", config)
    checkpoint.save(first=[1, "two"])
    values = torch.ones(2)
    checkpoint.save(second=values, first=None)
    values += 1  # of which it has a copy
    for saved in (checkpoint, Checkpoint(tmp_path / "file.pt", config)):
        assert saved.stages["first"] is None and saved.stages["second"].tolist() == [1, 1]


def test_checkpoint_names_the_options_that_differ(tmp_path):
    path = tmp_path / "checkpoint_q1.pt"
    Checkpoint(path, {"seed": 0, "batch_size": 128, "subset": None}).save()
    with pytest.raises(
        UsageError, match="batch size 128 there, 64 here; subset None there, 5 here"
    ):
        Checkpoint(path, {"seed": 0, "batch_size": 64, "subset": 5})


@pytest.mark.parametrize(
    "content",
    [
        "a text",
        {},
        {"config": {}, "stages": {}},  # of an older version
        {"version": 3, "stages": {}},
        {"version": 3, "config": 3, "stages": {}},
    ],
)
def test_checkpoint_of_another_content_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint_q1.pt"
    torch.save(content, path)
    with pytest.raises(
        FileError, match="checkpoint_q1.pt is damaged, or of another version: delete"
    ):
        Checkpoint(path, {})


def test_stages_have_random_numbers_of_their_own_which_can_be_restored(tmp_path):
    def draw():
        return torch.rand(()).item(), np.random.randn(), random.random()

    def drawn(seed, stage):
        seed_stage(seed, stage)
        return draw()

    assert drawn(0, "baseline") == drawn(0, "baseline")
    assert all(
        len(set(each)) == 3
        for each in zip(drawn(0, "CVAE"), drawn(1, "CVAE"), drawn(0, "x"), strict=True)
    )
    draw()  # NumPy has a second number in store
    torch.save(random_state(torch.device("cpu")), tmp_path / "state.pt")
    numbers = draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == numbers
