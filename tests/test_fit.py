import copy
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from cvae.checkpoint import Checkpoint, Stage
from cvae.files import FileError
from cvae.fit import fit
from cvae.progress import Progress
from cvae.reporter import Reporter
from cvae.schedule import Schedule

IMAGES: Any = [{"input": image} for image in torch.linspace(-1, 1, 10)[:, None]]
LOADERS = {"train": DataLoader(IMAGES, 4, shuffle=True), "val": DataLoader(IMAGES, 10)}


class Scripted:
    """A net, losses to descend on, and validation losses that are told beforehand."""

    def __init__(self, val=(), dropout=0.0):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(dropout))
        self.val = iter(val) if val else None
        self.weights = []

    def loss(self, batch):
        return self.net(batch["input"]).square().sum()

    def validate(self, batch):
        self.weights.append(copy.deepcopy(self.net.state_dict()))
        return {"val": torch.tensor(10.0 * next(self.val)) if self.val else self.loss(batch)}

    def fit(self, schedule, stage=None):
        return fit(self.net, self.loss, self.validate, LOADERS, schedule, Reporter("net", "CVAE"), stage)


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
    history = scripted.fit(Schedule(0.1, num_epochs=4 if best == 4 else 50, early_stop_patience=patience))
    assert len(history.epochs) == len(scripted.weights) == epochs and history.best_epoch == best
    assert [epoch["val"] for epoch in history.epochs] == pytest.approx(val[:epochs])
    for name, value in scripted.net.state_dict().items():
        assert torch.equal(value, scripted.weights[best - 1][name])
        assert best == epochs or not torch.equal(value, scripted.weights[-1][name])


class Cut(Exception):
    pass


@pytest.mark.parametrize("policy", ["constant", "one-cycle"])
@pytest.mark.parametrize("cut_after", [1, 2, 3, 4, 5])
def test_interrupted_training_ends_as_if_it_had_not_been(tmp_path, policy, cut_after):
    """Epochs depend on shuffled batches, dropout, moments and the learning rate: all of that goes on."""
    schedule = Schedule(0.1, num_epochs=5, early_stop_patience=9, policy=policy, weight_decay=0.1)
    whole = Scripted(dropout=0.5)
    expected = whole.fit(schedule)

    class Cutting(Stage):
        def keep(self, work):
            super().keep(work)
            if len(work.history.epochs) == cut_after:
                raise Cut

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Cut):
        Scripted(dropout=0.5).fit(schedule, Cutting(Checkpoint(path, {}), "net"))
    again = Scripted(dropout=0.5)
    history = again.fit(schedule, Stage(Checkpoint.load(path), "net"))
    assert len(again.weights) == 5 - cut_after
    assert [epoch["val"] for epoch in history.epochs] == [epoch["val"] for epoch in expected.epochs]
    assert [epoch["train"] for epoch in history.epochs] == [epoch["train"] for epoch in expected.epochs]
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
        (["best_weights"], None),
        (["best_weights", "0.weight"], None),
        (["best_weights", "0.weight"], torch.ones(2, 1)),
        (["best_weights", "0.more"], torch.ones(1)),
        (["weights"], None),
        (["weights", "0.bias"], torch.ones(7)),
        (["weights"], []),
        (["optimizer"], None),
        (["optimizer", "state", 0], None),
        (["optimizer", "state", 0, "exp_avg"], None),
        (["optimizer", "state", 0, "exp_avg"], torch.ones(4, 4)),
        (["optimizer", "state", 1, "exp_avg_sq"], torch.ones(1, dtype=torch.float64)),
        (["optimizer", "state", 1, "step"], "many"),
        (["optimizer", "param_groups", 0, "lr"], "fast"),
        (["optimizer", "param_groups"], []),
        (["rate"], None),
        (["rate", "last_epoch"], 2),
        (["rate", "last_epoch"], 3.0),
        (["rate", "base_lrs"], None),
        (["random"], None),
        (["random"], 3),
        (["random", 0, "cpu"], torch.zeros(3, dtype=torch.uint8)),
        (["random", 0, "cpu"], "anything"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, keys, value):
    schedule, path = Schedule(0.1, num_epochs=1), tmp_path / "checkpoint.pt"
    checkpoint = Checkpoint(path, {})
    Scripted().fit(schedule, Stage(checkpoint, "net"))
    longer = Schedule(0.1, num_epochs=9)
    progress = Progress(Scripted().net, longer, 3)
    for batch in LOADERS["train"]:
        progress.net(batch["input"]).sum().backward()
        progress.step(4)
    progress.note({"train": 1.0, "val": 1.0, "seconds": 1.0})
    content = copy.deepcopy(progress.state_dict())
    checkpoint.save(net=content)
    Scripted().fit(longer, Stage(Checkpoint.load(path), "net"))  # as it is, it fits
    spoil(content, *keys, value=value)
    checkpoint.save(net=content)
    with pytest.raises(FileError, match="checkpoint.pt does not fit this run .*--overwrite"):
        Scripted().fit(longer, Stage(Checkpoint.load(path), "net"))
