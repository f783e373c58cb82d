import copy

import pytest
import torch

from cvae.training import distributed
from cvae.training.optimizer import Optimizer
from cvae.training.settings import TrainingSettings


def learning_rates(settings, steps_per_epoch):
    optimizer = Optimizer({"w": torch.nn.Parameter(torch.ones(1))}, settings, steps_per_epoch)
    rates = []
    for _ in range(settings.num_epochs * steps_per_epoch):
        rates.append(optimizer.adamw.param_groups[0]["lr"])
        optimizer()
    return torch.tensor(rates)


@pytest.mark.parametrize(
    "wrong, choices",
    [
        ({"schedule": "cosine"}, "constant, one-cycle"),
        ({"precision": "float16"}, "float32, bfloat16"),
    ],
)
def test_unknown_names_are_refused(wrong, choices):
    with pytest.raises(ValueError, match=f"is none of {choices}"):
        TrainingSettings(**wrong)


def test_constant_learning_rate_does_not_change():
    assert (learning_rates(TrainingSettings(num_epochs=5, learning_rate=0.01), 20) == 0.01).all()


def test_one_cycle_rises_to_its_peak_and_ends_near_zero():
    rates = learning_rates(
        TrainingSettings(num_epochs=5, learning_rate=0.01, schedule="one-cycle"), 20
    )
    peak = rates.argmax()
    assert rates[peak] == pytest.approx(0.01, rel=1e-3) and 25 < peak < 35  # of 100 steps
    assert (rates[1 : peak + 1] > rates[:peak]).all() and (rates[peak + 1 :] < rates[peak:-1]).all()
    assert rates[0] < 0.01 / 20 and rates[-1] < 0.01 / 1000


def test_weight_decay_and_beta2_reach_adamw():
    parameter = torch.nn.Parameter(torch.ones(1))
    settings = TrainingSettings(learning_rate=0.1, weight_decay=0.5, beta2=0.9)
    optimizer = Optimizer({"w": parameter}, settings, steps_per_epoch=1)
    assert optimizer.adamw.param_groups[0]["betas"] == (0.9, 0.9)
    parameter.grad = torch.zeros(1)
    optimizer()
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.5)
    assert parameter.grad is None


@pytest.fixture
def gradient_descent(monkeypatch):
    """Let a step move each parameter by its gradient."""
    monkeypatch.setattr(
        "cvae.training.optimizer.AdamW", lambda parameters, **_: torch.optim.SGD(parameters, lr=1)
    )


@pytest.mark.parametrize("images", [1, 8])
@pytest.mark.parametrize("length, clipped", [(10.0, 1.0), (0.5, 0.5)])
def test_gradients_are_clipped_all_together_for_each_image_of_the_batch(
    gradient_descent, images, length, clipped
):
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 3))]
    optimizer = Optimizer(
        dict(zip("ab", parameters)), TrainingSettings(max_grad_norm=1.0), steps_per_epoch=1
    )
    optimizer.images_in_batch = images
    gradients = torch.nn.functional.normalize(torch.randn(5), dim=0) * length * images
    parameters[0].grad, parameters[1].grad = gradients[:2].clone(), gradients[2:].view(1, 3).clone()
    optimizer()
    moved = -torch.nn.utils.parameters_to_vector(parameters)
    torch.testing.assert_close(moved, gradients * clipped / length)


def test_gradients_are_summed_over_processes_before_they_are_clipped(gradient_descent, monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(2))
    monkeypatch.setattr(distributed, "sum_gradients", lambda parameters: parameters[0].grad.mul_(2))
    optimizer = Optimizer({"w": parameter}, TrainingSettings(max_grad_norm=5.0), steps_per_epoch=1)
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer()
    torch.testing.assert_close(parameter, torch.nn.Parameter(torch.tensor([-3.0, -4.0])))


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_loaded_state_takes_the_same_steps(schedule):
    settings = TrainingSettings(
        num_epochs=4, learning_rate=0.1, schedule=schedule, weight_decay=0.1
    )
    gradients = torch.randn(4, 3)

    def step(optimizer, gradients):
        (parameter,) = optimizer.parameters
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer()

    optimizer = Optimizer({"w": torch.nn.Parameter(torch.ones(3))}, settings, steps_per_epoch=1)
    step(optimizer, gradients[:2])
    again = Optimizer(
        {"w": torch.nn.Parameter(optimizer.parameters[0].detach().clone())}, settings, 1
    )
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, gradients[2:])
    step(again, gradients[2:])
    assert torch.equal(optimizer.parameters[0], again.parameters[0])
