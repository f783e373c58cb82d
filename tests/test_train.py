import copy
import io
import itertools
import math
import random
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.util import is_validation_enabled
from torch import nn
from tqdm import tqdm

from cvae.baseline import BaselineNet, MaskedBCELoss
from cvae.config import TrainingConfig
from cvae.data import make_loader
from cvae.model import CVAE
from cvae.train import (
    BaselineTraining,
    CVAETraining,
    EarlyStopping,
    History,
    Phase,
    TrainingError,
    importance_weighted_elbo,
    train_baseline,
    train_cvae,
)

from .conftest import HIDDEN_1, HIDDEN_2, Z_DIM, assert_same_weights

VAL = [9.0] * 3 + [7.0] * 3 + [8.0] * 3  # of three epochs of three batches
both_elbos = pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, Trace_ELBO])
PATIENT: dict[str, Any] = dict(early_stop_patience=99, learning_rate=1e-2)


def small_nets(dropout=0.0):
    baseline = BaselineNet(HIDDEN_1, HIDDEN_2)
    baseline.relu = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))  # type: ignore[assignment]
    cvae = CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, baseline)
    cvae.recognition_net.activation = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
    return baseline, cvae


class ScriptedELBO(TraceMeanField_ELBO):
    """Trains as ever, and validates to what it is told; the weights of every epoch are recorded."""

    def __init__(self, cvae, val):
        super().__init__()
        self.cvae, self.val, self.weights = cvae, iter(val), []

    def loss(self, model, guide, xs, ys):
        super().loss(model, guide, xs, ys)
        self.weights.append(copy.deepcopy(self.cvae.state_dict()))
        return len(xs) * next(self.val)


@pytest.mark.parametrize(
    "patience, val, epochs, best",
    [
        (1, [3, 2, 2, 1], 3, 2),
        (2, [3, 4, 2, 3, 3, 1], 5, 3),
        (3, [1, 2, 3, 4], 4, 1),
        (9, [4, 3, 2, 1], 4, 4),
        (2, [2, 1, 1, 1, 0], 4, 2),  # an equal loss is not a lower one
    ],
)
def test_training_stops_early_with_the_weights_of_the_best_epoch(few, patience, val, epochs, best):
    _, cvae = small_nets()
    few["val"] = make_loader(few["val"].dataset, 20)
    elbo = ScriptedELBO(cvae, val)
    training = TrainingConfig(num_epochs=len(val), early_stop_patience=patience)
    history = train_cvae(cvae, few, training, elbo=elbo)
    assert [epoch["val"] for epoch in history.epochs] == val[:epochs]
    assert (history.best_epoch, history.best_loss) == (best, val[best - 1])
    assert history.seconds == sum(epoch["seconds"] for epoch in history.epochs) > 0
    for name, value in cvae.state_dict().items():
        assert torch.equal(value, elbo.weights[best - 1][name])
    assert not torch.equal(cvae.prior_net.fc1.weight, elbo.weights[-1]["prior_net.fc1.weight"]) or (
        best == epochs
    )


@pytest.mark.parametrize(
    "val, objectives, best",
    [
        ([3, 2, 4], [1, 1, 1], 2),
        ([1, 2, 4], [1, 1, 2], 3),
        ([1, 2, 5, 4, 4], [1, 1, 2, 2, 2], 4),
        ([2, 1], [1, 2], 2),
    ],
)
def test_only_losses_of_one_objective_are_compared(val, objectives, best):
    """A lower loss before the bound changed says nothing about those after it."""
    epochs = zip(val, objectives, strict=True)
    history = History([{"val": loss, "objective": number} for loss, number in epochs])
    assert (history.best_epoch, history.best_loss) == (best, val[best - 1])


def test_phases_have_their_own_images_and_bounds(few, monkeypatch):
    """What trains and what validates, seen from the model."""
    _, cvae = small_nets()
    images = {image.numpy().tobytes() for image in few["val"].dataset[:]["original"]}
    model, logits, seen = cvae.model, cvae.generation_net.logits, []

    def watch_model(xs, ys):
        whole = torch.where(xs == -1, ys, xs)
        seen.append([cvae.training, {image.numpy().tobytes() for image in whole} <= images])
        return model(xs, ys)

    def watch_logits(z, *others, **more):
        seen[-1].append(len(z) if z.ndim == 3 else 1)
        return logits(z, *others, **more)

    monkeypatch.setattr(cvae, "model", watch_model)
    monkeypatch.setattr(cvae.generation_net, "logits", watch_logits)
    phases = [Phase(2, TraceMeanField_ELBO(), shift=5), Phase(2, importance_weighted_elbo(3))]
    history = train_cvae(cvae, few, TrainingConfig(num_epochs=4, **PATIENT), phases=phases)
    first = [[True, False, 1]] * 3 + [[False, True, 1]] * 3  # training, whole images, samples
    last = [[True, True, 3]] * 3 + [[False, True, 3]] * 3
    assert seen[1:] == 2 * first + 2 * last  # after a check of the model
    assert [{"reconstruction", "kl"} <= set(epoch) for epoch in history.epochs[:2]] == [True, True]
    assert not any({"reconstruction", "kl"} & set(epoch) for epoch in history.epochs[2:])
    assert history.best_epoch in (3, 4)


def test_nothing_stops_before_the_first_epoch():
    assert History().best_epoch == 0 and not EarlyStopping(1)(History())


@both_elbos
def test_losses_fall_on_few_images_and_the_baseline_stays(few, elbo):
    """And parameters of other models stay where they are."""
    pyro.param("somebody's", torch.ones(2))
    baseline, cvae = small_nets()
    history = train_baseline(baseline, few, TrainingConfig(num_epochs=15, **PATIENT))
    frozen = copy.deepcopy(baseline)
    cvae_history = train_cvae(cvae, few, TrainingConfig(num_epochs=30, **PATIENT), elbo=elbo())
    for epochs in (history.epochs, cvae_history.epochs):
        assert epochs[-1]["train"] < 0.5 * epochs[0]["train"]
        assert epochs[-1]["val"] < 0.5 * epochs[0]["val"]
    assert "kl" in cvae_history.epochs[0] and "kl" not in history.epochs[0]
    assert_same_weights(cvae.baseline_net, frozen)
    assert list(pyro.get_param_store()) == ["somebody's"]
    assert not cvae.training and not baseline.training


def test_losses_are_summed_over_images_and_divided_once(few):
    still, (net, _) = TrainingConfig(num_epochs=1, learning_rate=1e-30), small_nets()
    by_8 = train_baseline(net, few, still).epochs[0]  # batches of 8, 8 and 4
    few["val"] = make_loader(few["val"].dataset, 20)
    by_20 = train_baseline(net, few, still).epochs[0]
    assert by_8["val"] == pytest.approx(by_20["val"], rel=1e-6)
    assert by_8["train"] == pytest.approx(by_8["val"], rel=1e-6)


@pytest.mark.parametrize("split", ["train", "val"])
def test_loss_that_is_not_finite_names_its_run_epoch_and_split(few, split):
    net, cvae = small_nets()
    elbo = ScriptedELBO(cvae, [9.0] * 3 + [math.nan] * 3)
    if split == "train":
        with torch.no_grad():
            net.fc2.weight[0, 0] = math.nan
        problem = "^1 quadrant, baseline, epoch 1/7: the train loss is nan: .*--learning-rate$"
        with pytest.raises(TrainingError, match=problem):
            BaselineTraining(net, few, TrainingConfig(num_epochs=7), name="1 quadrant").run()
    else:
        with pytest.raises(TrainingError, match="^CVAE, epoch 2/7: the val loss is nan"):
            train_cvae(cvae, few, TrainingConfig(num_epochs=7), elbo=elbo)


def test_baseline_takes_the_steps_of_the_tutorials_loss(few):
    """Only the missing pixels are computed; the weights move as by the tutorial's masked loss."""
    few["train"] = few["val"]  # the same order for both
    net, _ = small_nets()
    whole, masked_loss = copy.deepcopy(net), MaskedBCELoss()
    history = train_baseline(net, few, TrainingConfig(num_epochs=3))
    optimizer = torch.optim.Adam(whole.requires_grad_(True).parameters(), lr=1e-3)
    for batch in [*few["train"]] * 3:
        optimizer.zero_grad()
        masked_loss(whole(batch["input"]), batch["output"]).backward()
        optimizer.step()
    for name, value in whole.state_dict().items():  # after 9 steps of 1e-3
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=1e-5)
    losses = [masked_loss(net(batch["input"]), batch["output"]).item() for batch in few["val"]]
    assert history.epochs[-1]["val"] == pytest.approx(sum(losses) / 20, rel=1e-5)


@both_elbos
def test_cvae_takes_the_steps_of_pyros_svi(few, elbo):
    few["train"] = few["val"]
    _, cvae = small_nets()
    by_svi = copy.deepcopy(cvae)
    pyro.set_rng_seed(0)
    train_cvae(cvae, few, TrainingConfig(num_epochs=1), elbo=elbo())
    pyro.set_rng_seed(0)
    svi = pyro.infer.SVI(by_svi.model, by_svi.guide, pyro.optim.Adam({"lr": 1e-3}), elbo())
    for batch in few["train"]:
        svi.step(batch["input"], batch["output"])
    for name, value in by_svi.state_dict().items():
        torch.testing.assert_close(cvae.state_dict()[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_the_matrix_products_in_training_alone(few, precision):
    net, cvae = small_nets()
    training = TrainingConfig(num_epochs=1, precision=precision)
    inside: set[Any] = set()
    outside: set[Any] = set()
    for module in (net, cvae.prior_net, cvae.recognition_net, cvae.generation_net):
        products = lambda _, __, out: inside.add((torch.is_grad_enabled(), out.dtype))  # noqa: E731
        module.fc1.register_forward_hook(products)
        module.register_forward_hook(lambda _, __, out: outside.update(each.dtype for each in out))
    train_baseline(net, few, training)
    train_cvae(cvae, few, training)
    expected = {(True, getattr(torch, precision)), (False, torch.float32)}
    # the frozen baseline's products of the CVAE's training are without gradients
    assert inside - {(False, torch.bfloat16)} == expected and outside == {torch.float32}
    assert {value.dtype for value in cvae.state_dict().values()} == {torch.float32}


def test_losses_hardly_depend_on_the_precision(real_digits):
    def losses(precision):
        torch.manual_seed(0)
        training, net = TrainingConfig(num_epochs=2, precision=precision), BaselineNet(50, 50)
        histories = [train_baseline(net, real_digits[1], training)]
        histories.append(train_cvae(CVAE(10, 50, 50, net), real_digits[1], training))
        return [e[key] for history in histories for e in history.epochs for key in ("train", "val")]

    exact, rounded = losses("float32"), losses("bfloat16")
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact


def test_no_step_of_the_baseline_waits_for_its_loss(few, monkeypatch):
    """On a GPU, reading it would stop the queue: all are read after the epoch's last step."""
    (net, _), as_float, events = small_nets(), torch.Tensor.__float__, []

    def read(loss):
        events.append("read")
        return as_float(loss)

    for method in ("item", "__float__"):
        monkeypatch.setattr(torch.Tensor, method, read)
    net.fc1.register_forward_pre_hook(lambda *_: events.extend(["step"] * net.training))
    train_baseline(net, few, TrainingConfig(num_epochs=2))
    # the first read of an epoch is of a seed for the order of the images
    assert [key for key, _ in itertools.groupby(events)] == ["read", *["step", "read"] * 2]


def make_training(kind, few, phases=(), seed=0, **options):
    """Let epochs depend on dropout, moments, the learning rate, the phase and shuffled batches."""
    pyro.set_rng_seed(seed)
    baseline, cvae = small_nets(dropout=0.5)
    config = TrainingConfig(num_epochs=4, weight_decay=0.1, **PATIENT, **options)
    if kind is BaselineTraining:
        return BaselineTraining(baseline, few, config)
    return CVAETraining(cvae, few, config, phases=phases)


PHASES = [Phase(2, TraceMeanField_ELBO(), shift=1), Phase(2, importance_weighted_elbo(2))]
CASES: list[Any] = [(BaselineTraining, {}), (CVAETraining, {}), (CVAETraining, {"phases": PHASES})]
CASES += [(kind, {"schedule": "one-cycle"}) for kind in (BaselineTraining, CVAETraining)]


@pytest.mark.parametrize("kind, options", CASES)
def test_training_resumed_from_its_state_ends_as_if_it_had_not_been_interrupted(few, kind, options):
    def losses(training):
        return [(epoch["train"], epoch["val"]) for epoch in training.history.epochs]

    whole = make_training(kind, few, **options)
    assert list(whole) == [1, 2, 3, 4] and len(set(losses(whole))) == 4
    assert whole.state_dict().keys() == {"epochs", "best"}
    for after in range(1, 4):
        cut = make_training(kind, few, **options)
        for epoch in cut:
            if epoch == after:
                break
        state, random_state = copy.deepcopy(cut.state_dict()), torch.get_rng_state()
        resumed = make_training(kind, few, seed=after, **options)  # of other weights
        resumed.load_state_dict(state)
        torch.set_rng_state(random_state)
        assert list(resumed) == list(range(after + 1, 5)) and losses(resumed) == losses(whole)
        assert_same_weights(resumed.net, whole.net)


def test_body_of_the_loop_runs_outside_pyros_scope_and_may_break(few):
    """With the net as the epoch left it; the best weights are loaded on request."""
    pyro.param("somebody's", torch.ones(2))
    _, cvae = small_nets()
    training = CVAETraining(cvae, few, TrainingConfig(num_epochs=9), elbo=ScriptedELBO(cvae, VAL))
    for epoch in training:
        assert list(pyro.get_param_store()) == ["somebody's"] and is_validation_enabled()
        if epoch == 3:
            break
    last, best = copy.deepcopy(cvae.state_dict()), training.best_weights
    assert training.history.best_epoch == 2 and not training.finished
    training.load_best()
    name = "prior_net.fc1.weight"
    assert torch.equal(cvae.state_dict()[name], best[name])
    assert not torch.equal(last[name], best[name]) and not cvae.training


def test_optimizer_knows_the_size_of_each_batch(few):
    """Which clips gradients of sums by the mean."""
    training, sizes = BaselineTraining(small_nets()[0], few, TrainingConfig(num_epochs=1)), []
    record = lambda *_: sizes.append(training.optimizer.batch_size)  # noqa: E731
    training.optimizer.adamw.register_step_pre_hook(record)
    training.run()
    assert sizes == [8, 8, 4]


@pytest.mark.parametrize(
    "terminal, bar, shown", [(True, True, True), (True, False, False), (False, True, False)]
)
def test_bar_with_the_loss_is_for_terminals(few, monkeypatch, terminal, bar, shown):
    monkeypatch.setattr("cvae.train.SHOW_EVERY", 2)
    monkeypatch.setattr("cvae.train.tqdm", partial(tqdm, mininterval=0))
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr", stream)
    BaselineTraining(small_nets()[0], few, TrainingConfig(num_epochs=1), bar=bar).run()
    assert [part in stream.getvalue() for part in ("baseline, epoch 1/1", "loss=")] == [shown] * 2


def test_training_has_so_many_epochs(few):
    training = TrainingConfig(num_epochs=2, min_steps=13, schedule="one-cycle", **PATIENT)
    assert len(train_baseline(small_nets()[0], few, training).epochs) == 5  # of 3 steps each


class Noisy(CVAE):
    """Draws from all random number generators."""

    def guide(self, xs, ys=None):
        noise = np.random.randn(len(xs)) + random.random()
        shift = torch.as_tensor(noise, dtype=torch.float32).unsqueeze(-1)
        with pyro.plate("data", len(xs)):
            loc, scale = self.recognition_net(xs, xs if ys is None else ys)
            pyro.sample("z", dist.Normal(loc + shift, scale).to_event(1))


def test_beginning_to_train_draws_no_random_numbers(few, monkeypatch):
    """Though the model is checked; else a resumed run would go on with others."""

    def draw():
        return torch.rand(()).item(), np.random.randn(), random.random()

    training = CVAETraining(Noisy(Z_DIM, 16, 12), few, TrainingConfig(num_epochs=1))
    monkeypatch.setattr(training, "_run_epoch", lambda: 1 / 0)
    pyro.set_rng_seed(0)
    with pytest.raises(ZeroDivisionError):
        next(iter(training))
    drawn = draw()
    pyro.set_rng_seed(0)
    assert drawn == draw()


def test_stopping_before_a_phase_is_warned_of(few):
    """Else a description would name a bound that has trained nothing."""
    config = TrainingConfig(num_epochs=9, early_stop_patience=1, learning_rate=1e-30)
    elbo = TraceMeanField_ELBO()
    train_cvae(small_nets()[1], few, config, phases=[Phase(8, elbo), Phase(1, elbo)])
    phases = [Phase(8, elbo), Phase(1, importance_weighted_elbo(2))]
    with pytest.warns(UserWarning, match="CVAE: stopped early, before a phase of another bound"):
        train_cvae(small_nets()[1], few, config, phases=phases)


def test_losses_of_shifted_training_are_compared_over_all_epochs(few):
    """Shifts change no bound, and validation is without them."""
    elbo = ScriptedELBO(small_nets()[1], [3, 1, 2])
    few["val"] = make_loader(few["val"].dataset, 20)
    phases = [Phase(2, elbo, shift=1), Phase(0, TraceMeanField_ELBO()), Phase(1, elbo)]
    history = train_cvae(elbo.cvae, few, TrainingConfig(num_epochs=3), phases=phases)
    assert history.best_epoch == 2


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"schedule": "cosine"}, "unknown schedule 'cosine'; choose constant or one-cycle"),
        ({"precision": "float16"}, "unknown precision 'float16'; choose float32 or bfloat16"),
    ],
)
def test_unknown_names_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        TrainingConfig(**options)
