import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from cvae.choices import SCHEDULES
from cvae.errors import FileError, TrainingError
from cvae.storage.checkpoint import Checkpoint
from cvae.train import EarlyStopping
from cvae.training.loop import fit
from cvae.training.optimizer import Optimizer
from cvae.training.settings import TrainingSettings
from cvae.training.state import TrainingState

IMAGES: Any = [{"input": image} for image in torch.linspace(-1, 1, 10)[:, None]]
LOADERS = {"train": DataLoader(IMAGES, 4, shuffle=True), "val": DataLoader(IMAGES, 10)}


class Scripted:
    """A net, losses to descend on, and validation losses that are given beforehand."""

    def __init__(self, val=(), dropout=0.0):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(dropout))
        self.val = iter(val) if val else None
        self.weights = []

    def loss(self, batch):
        return self.net(batch["input"]).square().sum()

    def step(self, batch):
        loss = self.loss(batch)
        loss.backward()
        self.optimizer()
        return loss.item()

    def validate(self, batch):
        self.weights.append(copy.deepcopy(self.net.state_dict()))
        return {"val": torch.tensor(10.0 * next(self.val)) if self.val else self.loss(batch)}

    def fit(self, settings, checkpoint=None, snapshot=None):
        self.optimizer = Optimizer(
            dict(self.net.named_parameters()), settings, len(LOADERS["train"])
        )
        should_stop = EarlyStopping(settings.early_stop_patience)
        state = TrainingState(self.net, self.optimizer, should_stop, settings.num_epochs)
        return fit(
            "CVAE",
            state,
            self.step,
            self.validate,
            LOADERS,
            checkpoint=checkpoint,
            snapshot=snapshot,
        )


def settings_of(num_epochs, **others):
    return TrainingSettings(num_epochs=num_epochs, learning_rate=0.1, **others)


@pytest.mark.parametrize(
    "patience, val, epochs, best",
    [
        (1, [3, 2, 2, 1], 3, 2),
        (2, [3, 4, 2, 3, 3, 1], 5, 3),
        (3, [1, 2, 3, 4], 4, 1),
        (3, [4, 3, 2, 1], 4, 4),
    ],
)
def test_training_stops_early_with_the_weights_of_the_best_epoch(patience, val, epochs, best):
    scripted = Scripted(val)
    history = scripted.fit(settings_of(4 if best == 4 else 50, early_stop_patience=patience))
    assert len(history.epochs) == len(scripted.weights) == epochs and history.best_epoch == best
    assert [epoch["val"] for epoch in history.epochs] == pytest.approx(val[:epochs])
    for name, value in scripted.net.state_dict().items():
        assert torch.equal(value, scripted.weights[best - 1][name])
        assert best == epochs or not torch.equal(value, scripted.weights[-1][name])


class Interrupted(Exception):
    pass


@dataclass
class InterruptedCheckpoint(Checkpoint):
    """Interrupts training once an epoch is saved."""

    after: int = 1

    def save(self, **parts):
        super().save(**parts)
        if len(parts["CVAE"]["epochs"]) == self.after:
            raise Interrupted


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_interrupted_training_ends_as_if_it_had_not_been(tmp_path, schedule, after):
    """Epochs depend on shuffled batches, dropout, moments and the learning rate: all of these are resumed."""
    settings = settings_of(5, early_stop_patience=9, schedule=schedule, weight_decay=0.1)
    whole = Scripted(dropout=0.5)
    expected = whole.fit(settings)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        Scripted(dropout=0.5).fit(settings, InterruptedCheckpoint(path, {}, after=after))
    again = Scripted(dropout=0.5)
    history = again.fit(settings, Checkpoint.load(path))
    assert len(again.weights) == 5 - after
    assert [epoch["val"] for epoch in history.epochs] == [epoch["val"] for epoch in expected.epochs]
    assert [epoch["train"] for epoch in history.epochs] == [
        epoch["train"] for epoch in expected.epochs
    ]
    for name, value in whole.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], value)


def spoil(content, *keys, value):
    for key in keys[:-1]:
        content = content[key]
    if value is None:
        del content[keys[-1]]
    else:
        content[keys[-1]] = value


@pytest.mark.parametrize(
    "keys, value",
    [
        (["epochs"], None),
        (["epochs"], 3),
        (["epochs", 0], "an epoch"),
        (["epochs", 0, "val"], None),
        (["epochs", 0, "val"], float("nan")),
        (["epochs", 0, "val"], "low"),
        (["snapshots"], None),
        (["snapshots"], [torch.ones(1)] * 2),
        (["best_weights"], None),
        (["best_weights", "0.weight"], None),
        (["best_weights", "0.weight"], torch.ones(2, 1)),
        (["best_weights", "0.more"], torch.ones(1)),
        (["weights"], None),
        (["weights", "0.bias"], torch.ones(7)),
        (["weights"], []),
        (["optimizer"], None),
        (["optimizer", "moments", "0.weight"], None),
        (["optimizer", "moments", "0.weight", "exp_avg"], None),
        (["optimizer", "moments", "0.weight", "exp_avg"], torch.ones(4, 4)),
        (["optimizer", "moments", "0.bias", "exp_avg_sq"], torch.ones(1, dtype=torch.float64)),
        (["optimizer", "moments", "0.bias", "step"], "many"),
        (["optimizer", "lr"], "fast"),
        (["optimizer", "lr"], None),
        (["lr_scheduler"], None),
        (["lr_scheduler", "last_epoch"], 2),
        (["lr_scheduler", "last_epoch"], 3.0),
        (["lr_scheduler", "base_lrs"], None),
        (["random"], None),
        (["random"], 3),
        (["random", 0, "cpu"], torch.zeros(3, dtype=torch.uint8)),
        (["random", 0, "cpu"], "anything"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, keys, value):
    settings, path = settings_of(9), tmp_path / "checkpoint.pt"
    checkpoint = InterruptedCheckpoint(path, {})
    with pytest.raises(Interrupted):
        Scripted().fit(settings, checkpoint)
    state = Checkpoint.load(path).parts["CVAE"]
    Scripted().fit(settings, Checkpoint.load(path))  # as it is, it fits
    spoil(state, *keys, value=value)
    Checkpoint(path, {}).save(CVAE=state)
    with pytest.raises(FileError, match="checkpoint.pt does not fit this run .*--overwrite"):
        Scripted().fit(settings, Checkpoint.load(path))


def test_snapshots_are_taken_after_each_epoch_and_resumed(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        Scripted().fit(settings_of(4), InterruptedCheckpoint(path, {}, after=2), torch.tensor)
    history = Scripted().fit(
        settings_of(4), Checkpoint.load(path), lambda epoch: torch.tensor(10 * epoch)
    )
    assert [snapshot.item() for snapshot in history.snapshots] == [1, 2, 30, 40]


def test_losses_are_read_every_few_steps_and_are_the_same(monkeypatch):
    """A loss that is a tensor is read after later steps, so that no step waits for a GPU."""
    expected = Scripted().fit(settings_of(2))
    monkeypatch.setattr("cvae.training.loop.READ_EVERY", 2)
    scripted, events = Scripted(), []

    class Watched:
        def __init__(self, loss):
            self.loss = loss

        def __float__(self):
            events.append("read")
            return float(self.loss)

    def step(batch):
        loss = scripted.loss(batch)
        loss.backward()
        scripted.optimizer()
        events.append("step")
        return Watched(loss.detach())

    scripted.step = step  # type: ignore[method-assign]
    history = scripted.fit(settings_of(2))
    steps = [len(list(group)) for kind, group in itertools.groupby(events) if kind == "step"]
    assert steps == [2, 1] * 2 and events[-1] == "read"
    assert [epoch["train"] for epoch in history.epochs] == [
        epoch["train"] for epoch in expected.epochs
    ]


@pytest.mark.parametrize("split", ["training", "validation"])
def test_loss_that_is_not_finite_names_its_split_and_epoch(split):
    scripted = Scripted([1.0, 1.0 if split == "training" else math.nan])
    if split == "training":
        losses = iter([1.0] * 3 + [math.inf] + [1.0] * 2)
        scripted.step = lambda batch: next(losses)  # type: ignore[method-assign]
    expected = f"^CVAE, epoch 2/4: the {split} loss is (inf|nan): .*--learning-rate"
    with pytest.raises(TrainingError, match=expected):
        scripted.fit(settings_of(4))
