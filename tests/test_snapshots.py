import pytest
import torch

from cvae.checkpoint import Checkpoint, Stage
from cvae.files import FileError
from cvae.schedule import Schedule
from cvae.snapshots import Snapshots
from cvae.train import train_cvae

from .conftest import make_constant


def test_training_goes_on_as_if_nothing_had_been_drawn(cvae, real_digits):
    datasets, loaders, _ = real_digits
    inputs = datasets["val"].batch(range(3))["input"]
    start = {name: value.clone() for name, value in cvae.state_dict().items()}
    ends = []
    for snapshot in (None, Snapshots(cvae, inputs, 4, seed=5)):
        cvae.load_state_dict(start)
        torch.manual_seed(1)
        history = train_cvae(cvae, loaders, Schedule(num_epochs=2), snapshot=snapshot)
        ends.append((cvae.state_dict(), [{**epoch, "seconds": 0} for epoch in history.epochs]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(value, ends[1][0][name]) for name, value in ends[0][0].items())
    assert [snapshot.shape for snapshot in history.snapshots] == [(4, 3, 28, 28)] * 2


def test_samples_depend_on_seed_epoch_and_weights_alone(cvae, xs_ys):
    xs = xs_ys[0][:2]
    first = Snapshots(cvae, xs, 3, seed=0)
    assert first(1).dtype == torch.uint8
    torch.manual_seed(77)
    assert torch.equal(Snapshots(cvae, xs, 3, seed=0)(1), first(1))
    assert not torch.equal(first(2), first(1))
    assert not torch.equal(Snapshots(cvae, xs, 3, seed=1)(1), first(1))
    make_constant(cvae.prior_net, 0, 1e-8)  # z is always 0
    probabilities = cvae.generation_net(torch.zeros(1, 3)).view(28, 28)
    assert torch.allclose(first(1) / 255, probabilities.expand(3, 2, 28, 28), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("damage", ["fewer", "shape", "kind"])
def test_stored_snapshots_must_be_one_for_each_epoch(cvae, real_digits, tmp_path, damage):
    datasets, loaders, _ = real_digits
    snapshot = Snapshots(cvae, datasets["val"].batch(range(2))["input"], 1, seed=0)
    stage = Stage(Checkpoint(tmp_path / "checkpoint.pt", {}), "CVAE")
    history = train_cvae(cvae, loaders, Schedule(num_epochs=2), stage=stage, snapshot=snapshot)
    stored = stage.checkpoint.parts["CVAE"]["snapshots"]
    assert all(torch.equal(one, other) for one, other in zip(stored, history.snapshots))
    if damage == "fewer":
        stored.pop()
    elif damage == "shape":
        stored[1] = stored[1][..., :5]
    else:
        stored[0] = "picture"
    with pytest.raises(FileError, match="snapshot"):
        train_cvae(cvae, loaders, Schedule(num_epochs=3), stage=stage, snapshot=snapshot)
