import copy
import math

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from cvae.baseline import BaselineNet, MaskedBCELoss
from cvae.choices import PRECISIONS, SCHEDULES
from cvae.errors import TrainingError
from cvae.images.loader import make_loader
from cvae.model import CVAE
from cvae.train import EarlyStopping, train_baseline, train_cvae
from cvae.training.history import History
from cvae.training.settings import TrainingSettings

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM


def train_on_few(few, cvae_epochs=30, **options):
    baseline = BaselineNet(HIDDEN_1, HIDDEN_2)
    baseline_history = train_baseline(
        baseline, few, TrainingSettings(learning_rate=1e-2, num_epochs=15)
    )
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, baseline)
    frozen = copy.deepcopy(baseline.state_dict())
    history = train_cvae(
        cvae, few, TrainingSettings(learning_rate=1e-2, num_epochs=cvae_epochs), **options
    )
    return cvae, frozen, baseline_history, history


@pytest.fixture
def few(real_digits):
    """The same 20 images to train on and to validate."""
    datasets, _, _ = real_digits
    dataset = datasets["train"]
    dataset.original = dataset.original.select(range(20))
    return {"train": make_loader(dataset, 8, shuffle=True), "val": make_loader(dataset, 8)}


@pytest.mark.parametrize(
    "patience, val, epochs",
    [
        (1, [3, 2, 2, 1], 3),
        (2, [3, 4, 2, 3, 3, 1], 5),
        (3, [1, 2, 3, 4], 4),
        (5, [4, 3, 2, 1], None),
        (2, [2, 1, 1, 1, 0], 4),  # an equal loss is not a lower one
    ],
)
def test_early_stopping_waits_for_its_patience(patience, val, epochs):
    stops = [
        EarlyStopping(patience)(History([{"val": loss} for loss in val[:n]]))
        for n in range(len(val) + 1)
    ]
    assert stops.index(True) == epochs if epochs else not any(stops)


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, Trace_ELBO])
def test_losses_fall_on_few_images_and_the_baseline_stays(few, elbo):
    cvae, frozen, baseline_history, history = train_on_few(few, elbo=elbo())
    for epochs in (baseline_history.epochs, history.epochs):
        assert epochs[-1]["train"] < 0.5 * epochs[0]["train"]
        assert epochs[-1]["val"] < 0.5 * epochs[0]["val"]
    assert all(
        torch.equal(value, frozen[name]) for name, value in cvae.baseline_net.state_dict().items()
    )
    assert not pyro.get_param_store().keys()


def test_terms_of_the_validation_loss_are_shown_apart(few):
    _, _, baseline_history, history = train_on_few(few, cvae_epochs=2)
    for epoch in history.epochs:
        assert epoch["val"] == pytest.approx(epoch["reconstruction"] + epoch["kl"])
        assert epoch["kl"] > 0
    assert "kl" not in baseline_history.epochs[0]


def test_losses_are_summed_over_images_and_divided_once(few):
    net = BaselineNet(HIDDEN_1, HIDDEN_2)
    by_8 = train_baseline(net, few, TrainingSettings(learning_rate=1e-30, num_epochs=1)).epochs[0]
    at_once = {"train": few["train"], "val": make_loader(few["val"].dataset, 20)}
    by_20 = train_baseline(
        net, at_once, TrainingSettings(learning_rate=1e-30, num_epochs=1)
    ).epochs[0]
    assert by_8["val"] == pytest.approx(by_20["val"], rel=1e-6)  # batches of 8, 8 and 4, or of 20
    assert by_8["train"] == pytest.approx(by_8["val"], rel=1e-6)


def test_same_seed_gives_the_same_weights(real_digits):
    def weights():
        pyro.set_rng_seed(3)
        datasets, _, _ = real_digits
        few = {
            "train": make_loader(datasets["train"], 50, shuffle=True),
            "val": make_loader(datasets["val"], 50),
        }
        return train_on_few(few, cvae_epochs=1)[0].state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_loss_that_is_not_finite_stops_the_run(few):
    net = BaselineNet(HIDDEN_1, HIDDEN_2)
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, copy.deepcopy(net))
    with torch.no_grad():
        net.fc2.weight[0, 0] = math.nan
        cvae.prior_net.fc31.bias[0] = math.inf
    with pytest.raises(
        TrainingError, match="epoch 1/50: the training loss is nan.*--learning-rate"
    ):
        train_baseline(net, few)
    with pytest.raises(TrainingError, match="the training loss is (inf|nan)"):
        train_cvae(cvae, few)


def test_baseline_takes_the_steps_of_the_tutorials_loss(few):
    """Training scores the missing pixels only, and yet moves the weights as the tutorial's masked loss would."""
    few["train"] = few["val"]  # the same order for both
    net = BaselineNet(HIDDEN_1, HIDDEN_2)
    whole, masked_loss = copy.deepcopy(net), MaskedBCELoss()
    history = train_baseline(net, few, TrainingSettings(learning_rate=1e-3, num_epochs=3))
    optimizer = torch.optim.Adam(whole.parameters(), lr=1e-3)
    for batch in [*few["train"]] * 3:
        optimizer.zero_grad()
        masked_loss(whole(batch["input"]), batch["output"]).backward()
        optimizer.step()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(
            net.state_dict()[name], value, rtol=0, atol=1e-5
        )  # of 9 steps of 1e-3
    loss = (
        sum(masked_loss(net(batch["input"]), batch["output"]).item() for batch in few["val"]) / 20
    )
    assert history.epochs[-1]["val"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, Trace_ELBO])
def test_cvae_takes_the_steps_of_pyros_svi(few, elbo):
    few["train"] = few["val"]
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2)
    by_svi = copy.deepcopy(cvae)
    pyro.set_rng_seed(0)
    train_cvae(cvae, few, TrainingSettings(num_epochs=1), elbo=elbo())
    pyro.set_rng_seed(0)
    svi = pyro.infer.SVI(by_svi.model, by_svi.guide, pyro.optim.Adam({"lr": 1e-3}), elbo())
    with pyro.get_param_store().scope():
        for batch in few["train"]:
            svi.step(batch["input"], batch["output"])
    for name, value in by_svi.state_dict().items():
        torch.testing.assert_close(cvae.state_dict()[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_trains_both_nets_to_the_end(few, schedule):
    settings = TrainingSettings(
        num_epochs=4, early_stop_patience=4, learning_rate=1e-2, schedule=schedule
    )
    net = BaselineNet(HIDDEN_1, HIDDEN_2)
    assert len(train_baseline(net, few, settings).epochs) == 4
    history = train_cvae(CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, net), few, settings)
    assert history.epochs[-1]["train"] < history.epochs[0]["train"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_that_of_the_matrix_products_in_training_alone(few, precision):
    net, settings = (
        BaselineNet(HIDDEN_1, HIDDEN_2),
        TrainingSettings(num_epochs=1, precision=precision),
    )
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, net)
    inside: set = set()
    outside: set = set()
    few["train"].dataset.cache_baseline_predictions(cvae.baseline_predictions)
    for module in (net, cvae.prior_net, cvae.recognition_net, cvae.generation_net):
        module.fc1.register_forward_hook(
            lambda _, __, out: inside.add((torch.is_grad_enabled(), out.dtype))
        )
        module.register_forward_hook(
            lambda _, __, out: outside.update(value.dtype for value in out)
        )
    train_baseline(net, few, settings)
    train_cvae(cvae, few, settings)
    assert inside == {(True, getattr(torch, precision)), (False, torch.float32)}
    assert outside == {torch.float32}
    assert {value.dtype for value in cvae.state_dict().values()} == {torch.float32}


def test_losses_hardly_depend_on_the_precision(real_digits):
    _, loaders, _ = real_digits

    def losses(precision):
        torch.manual_seed(0)
        settings = TrainingSettings(num_epochs=3, precision=precision)
        net = BaselineNet(50, 50)
        histories = [train_baseline(net, loaders, settings)]
        histories.append(train_cvae(CVAE(10, 50, 50, net), loaders, settings))
        return [
            epoch[key]
            for history in histories
            for epoch in history.epochs
            for key in ("train", "val")
        ]

    exact, rounded = losses("float32"), losses("bfloat16")
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


@pytest.mark.parametrize("images", [4, 20])
def test_gradients_of_the_mean_loss_are_clipped(few, images, monkeypatch):
    """A plain gradient step is as long as the greatest norm allows, times the images that the loss sums over."""
    monkeypatch.setattr("cvae.training.optimizer.AdamW", gradient_descent)
    dataset = few["train"].dataset
    dataset.original = dataset.original.select(range(images))
    few["train"] = make_loader(dataset, images)
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2)
    before = torch.nn.utils.parameters_to_vector(cvae.parameters()).detach()
    train_cvae(cvae, few, TrainingSettings(num_epochs=1, max_grad_norm=0.01))
    moved = torch.nn.utils.parameters_to_vector(cvae.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.01 * images, rel=1e-2)


def gradient_descent(parameters, **_):
    return torch.optim.SGD(parameters, lr=1)
