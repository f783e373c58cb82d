from functools import partial

import torch

from cvae.figures.animation import take_snapshot
from cvae.storage.checkpoint import Checkpoint
from cvae.train import train_cvae
from cvae.training.settings import TrainingSettings

from ..conftest import make_constant


def test_training_continues_as_if_nothing_had_been_drawn(cvae, real_digits):
    datasets, loaders, _ = real_digits
    inputs = datasets["val"][range(3)]["input"]
    start = {name: value.clone() for name, value in cvae.state_dict().items()}
    ends = []
    for snapshot in (None, partial(take_snapshot, cvae, inputs, 4, 5)):
        cvae.load_state_dict(start)
        torch.manual_seed(1)
        history = train_cvae(cvae, loaders, TrainingSettings(num_epochs=2), snapshot=snapshot)
        weights = {name: value.clone() for name, value in cvae.state_dict().items()}
        ends.append((weights, [{**epoch, "seconds": 0} for epoch in history.epochs]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(value, ends[1][0][name]) for name, value in ends[0][0].items())
    assert [snapshot.shape for snapshot in history.snapshots] == [(4, 3, 28, 28)] * 2


def test_samples_depend_on_seed_epoch_and_weights_alone(cvae, xs_ys):
    def snapshot(seed, epoch):
        return take_snapshot(cvae, xs_ys[0][:2], 3, seed, epoch)

    first = snapshot(0, 1)
    assert first.dtype == torch.uint8
    torch.manual_seed(77)
    assert torch.equal(snapshot(0, 1), first)
    assert not torch.equal(snapshot(0, 2), first)
    assert not torch.equal(snapshot(1, 1), first)
    make_constant(cvae.prior_net, 0, 1e-8)  # z is always 0
    probabilities = cvae.generation_net(torch.zeros(1, 3)).view(28, 28)
    assert torch.allclose(
        snapshot(0, 1) / 255, probabilities.expand(3, 2, 28, 28), atol=0.5 / 255 + 1e-6
    )


def test_snapshots_are_saved_and_restored_one_for_each_epoch(cvae, real_digits, tmp_path):
    datasets, loaders, _ = real_digits
    settings = TrainingSettings(num_epochs=2)
    snapshot = partial(take_snapshot, cvae, datasets["val"][range(2)]["input"], 1, 0)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {})
    drawn = train_cvae(cvae, loaders, settings, checkpoint=checkpoint, snapshot=snapshot).snapshots
    restored = train_cvae(
        cvae, loaders, settings, checkpoint=Checkpoint.load(checkpoint.path)
    ).snapshots
    assert len(drawn) == len(restored) == 2 and all(map(torch.equal, drawn, restored))
