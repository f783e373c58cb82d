import copy
from typing import Any

import pytest
import torch
from torch import nn

from cvae import distributed
from cvae.config import TrainingConfig
from cvae.optimizer import Optimizer


class Parameters(nn.Module):
    """A net of parameters alone."""

    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


def learning_rates(training, steps_per_epoch):
    optimizer = Optimizer(Parameters(w=torch.ones(1)), training, steps_per_epoch)
    rates = []
    for _ in range(training.epochs(steps_per_epoch) * steps_per_epoch):
        assert optimizer.adamw.param_groups[0]["betas"] == (0.9, training.beta2)
        rates.append(optimizer.adamw.param_groups[0]["lr"])
        optimizer()
    return torch.tensor(rates)


def test_constant_learning_rate_does_not_change():
    assert (learning_rates(TrainingConfig(num_epochs=5, learning_rate=0.01), 20) == 0.01).all()


@pytest.mark.parametrize("min_steps, steps", [(0, 100), (200, 200)])
def test_one_cycle_rises_to_its_peak_and_ends_near_zero(min_steps, steps):
    """Over all steps, also where epochs are multiplied on a small data set."""
    options = dict(learning_rate=0.01, schedule="one-cycle", min_steps=min_steps)
    rates = learning_rates(TrainingConfig(num_epochs=5, **options), 20)
    peak = int(rates.argmax())
    assert len(rates) == steps and 0.25 < peak / steps < 0.35
    assert rates[peak] == pytest.approx(0.01, rel=1e-3)
    assert (rates[1 : peak + 1] > rates[:peak]).all() and (rates[peak + 1 :] < rates[peak:-1]).all()
    assert rates[0] < 0.01 / 20 and rates[-1] < 0.01 / 1000


def test_weight_decay_and_beta2_reach_adamw():
    """Only matrices decay; a zero gradient moves nothing else."""
    net = Parameters(scale=torch.ones(()), bias=torch.ones(2), w=torch.ones(2, 1))
    training = TrainingConfig(learning_rate=0.1, weight_decay=0.5, beta2=0.9)
    optimizer = Optimizer(net, training, steps_per_epoch=1)
    assert {group["betas"] for group in optimizer.adamw.param_groups} == {(0.9, 0.9)}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer()
    assert net.w.detach() == pytest.approx(1 - 0.1 * 0.5) and net.w.grad is None
    assert net.scale == 1 and (net.bias == 1).all()


@pytest.fixture
def gradient_descent(monkeypatch):
    """Let a step move each parameter by its gradient."""
    sgd = torch.optim.SGD
    monkeypatch.setattr("cvae.optimizer.AdamW", lambda parameters, **_: sgd(parameters, lr=1))


@pytest.mark.parametrize("images", [1, 8])
@pytest.mark.parametrize("length, clipped", [(10.0, 1.0), (0.5, 0.5)])
def test_gradients_of_the_mean_loss_are_clipped_all_together(
    gradient_descent, images, length, clipped
):
    net = Parameters(a=torch.zeros(2), b=torch.zeros(1, 3))
    optimizer = Optimizer(net, TrainingConfig(max_grad_norm=1.0), steps_per_epoch=1)
    optimizer.batch_size = images
    gradients = nn.functional.normalize(torch.randn(5), dim=0) * length * images
    net.a.grad, net.b.grad = gradients[:2].clone(), gradients[2:].view(1, 3).clone()
    optimizer()
    moved = -nn.utils.parameters_to_vector(net.parameters())
    torch.testing.assert_close(moved, gradients * clipped / length)


def test_gradients_are_summed_over_processes_before_they_are_clipped(gradient_descent, monkeypatch):
    monkeypatch.setattr(distributed, "sum_gradients", lambda parameters: parameters[0].grad.mul_(2))
    net = Parameters(w=torch.zeros(2))
    optimizer = Optimizer(net, TrainingConfig(max_grad_norm=5.0), steps_per_epoch=1)
    net.w.grad = torch.tensor([3.0, 4.0])
    optimizer()
    torch.testing.assert_close(net.w.detach(), torch.tensor([-3.0, -4.0]))


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_loaded_state_takes_the_same_steps_whatever_the_order(schedule):
    """Moments have the names of their parameters, not their positions; frozen ones have none."""
    training = TrainingConfig(num_epochs=4, learning_rate=0.1, schedule=schedule, weight_decay=0.1)
    gradients = torch.randn(4, 2, 3)

    def step(optimizer, net, gradients):
        for a, b in gradients:
            net.a.grad, net.b.grad = a.clone(), b.clone()
            optimizer()

    net = Parameters(frozen=torch.ones(3), a=torch.ones(3), b=torch.ones(3))
    net.frozen.requires_grad_(False)
    optimizer = Optimizer(net, training, steps_per_epoch=1)
    step(optimizer, net, gradients[:2])
    state = copy.deepcopy(optimizer.state_dict())
    assert state["moments"].keys() == {"a", "b"}
    again = Parameters(b=net.b.detach().clone(), a=net.a.detach().clone())
    other = Optimizer(again, training, steps_per_epoch=1)
    other.load_state_dict(state)
    step(optimizer, net, gradients[2:])
    step(other, again, gradients[2:])
    assert torch.equal(net.a, again.a) and torch.equal(net.b, again.b)
