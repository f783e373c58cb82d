import pytest
import torch

from cvae.schedule import Schedule


def learning_rates(schedule, steps_per_epoch):
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer, rate = schedule.start([parameter], steps_per_epoch)
    rates = []
    for _ in range(schedule.num_epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rate.step()
    return torch.tensor(rates)


def test_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="no policy is called 'cosine'"):
        Schedule(policy="cosine")


def test_constant_rate_stays():
    assert (learning_rates(Schedule(0.01, num_epochs=5), 20) == 0.01).all()


def test_one_cycle_rises_to_its_peak_and_ends_near_nothing():
    rates = learning_rates(Schedule(0.01, num_epochs=5, policy="one-cycle"), 20)
    peak = rates.argmax()
    assert rates[peak] == pytest.approx(0.01, rel=1e-3) and 25 < peak < 35  # of 100 steps
    assert (rates[1 : peak + 1] > rates[:peak]).all() and (rates[peak + 1 :] < rates[peak:-1]).all()
    assert rates[0] < 0.01 / 20 and rates[-1] < 0.01 / 1000


def test_weight_decay_and_beta2_reach_the_optimiser():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer, _ = Schedule(0.1, weight_decay=0.5, beta2=0.9).start([parameter], 1)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)
    parameter.grad = torch.zeros(1)
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.1 * 0.5)
