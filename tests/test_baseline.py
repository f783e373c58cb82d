import pytest
import torch
from torch.distributions import Bernoulli

from cvae import HIDDEN_1, HIDDEN_2
from cvae.baseline import BaselineNet, MaskedBCELoss, missing_pixel_indices, missing_pixel_nll

TUTORIAL_SHAPES = {
    "fc1.weight": (500, 784),
    "fc1.bias": (500,),
    "fc2.weight": (500, 500),
    "fc2.bias": (500,),
    "fc3.weight": (784, 500),
    "fc3.bias": (784,),
}


def test_default_weights_are_the_tutorials():
    shapes = {name: tuple(value.shape) for name, value in BaselineNet().state_dict().items()}
    assert shapes == TUTORIAL_SHAPES
    assert (HIDDEN_1, HIDDEN_2) == (500, 500)


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 1, 28, 28), (5, 784)])
def test_output_is_the_tutorials_formula(shape):
    net, x = BaselineNet(16, 12), torch.rand(shape)
    w = net.state_dict()
    hidden = (x.view(5, 784) @ w["fc1.weight"].T + w["fc1.bias"]).clamp(min=0)
    hidden = (hidden @ w["fc2.weight"].T + w["fc2.bias"]).clamp(min=0)
    expected = 1 / (1 + torch.exp(-(hidden @ w["fc3.weight"].T + w["fc3.bias"])))
    assert net(x).shape == (5, 784)
    torch.testing.assert_close(net(x), expected)


def test_chosen_pixels_have_the_logits_of_the_whole(batch):
    net, missing = BaselineNet(16, 12), missing_pixel_indices(batch["input"])
    torch.testing.assert_close(
        net.logits(batch["input"], missing), net.logits(batch["input"])[:, missing]
    )


def test_missing_pixels_are_found_by_value(batch):
    missing = missing_pixel_indices(batch["input"])
    assert (batch["input"].view(8, 784)[:, missing] == -1).all()
    assert len(missing) == (batch["input"][0] == -1).sum() == (batch["output"][0] != -1).sum()
    doubled = torch.where(batch["input"] == -1, -2, batch["input"])
    assert torch.equal(missing_pixel_indices(doubled), missing)


@pytest.mark.parametrize("masked_with", [-1, -3, float("inf")])
def test_loss_is_the_bernoulli_likelihood_of_the_missing_pixels(batch, masked_with):
    target = torch.where(batch["output"] == -1, masked_with, batch["output"])
    probabilities = torch.rand(8, 784) * 0.98 + 0.01
    scored = (batch["output"] != -1).view(8, 784)
    likelihood = Bernoulli(probabilities, validate_args=False).log_prob(
        batch["output"].view(8, 784)
    )
    expected = -(likelihood * scored).sum()
    torch.testing.assert_close(MaskedBCELoss(masked_with)(probabilities, target), expected)


@pytest.mark.parametrize("mask_with", [-1, -2, 5])
def test_training_and_scoring_have_the_same_loss_whatever_marks_missing_pixels(batch, mask_with):
    net = BaselineNet(16, 12)
    x, y = (torch.where(batch[key] == -1, mask_with, batch[key]) for key in ("input", "output"))
    nll = missing_pixel_nll(net, x, y)
    assert nll.shape == (8, (y[0] != mask_with).sum())
    torch.testing.assert_close(nll.sum(), MaskedBCELoss(mask_with)(net(x), y))


def test_predictions_of_known_pixels_do_not_matter(batch):
    loss, known = MaskedBCELoss(), (batch["output"] == -1).view(8, 784)
    predictions = torch.rand(8, 784, requires_grad=True)
    other = torch.where(known, torch.rand(8, 784), predictions)
    torch.testing.assert_close(loss(predictions, batch["output"]), loss(other, batch["output"]))
    (gradient,) = torch.autograd.grad(loss(predictions, batch["output"]), predictions)
    assert (gradient[known] == 0).all() and gradient[~known].abs().sum() > 0


def test_saturated_predictions_stay_finite(batch):
    wrong = (batch["output"].view(8, 784) < 0.5).float()  # as sure as can be, and wrong
    wrong.requires_grad_()
    value = MaskedBCELoss()(wrong, batch["output"])
    (gradient,) = torch.autograd.grad(value, wrong)
    assert value.isfinite() and gradient.isfinite().all()
    net = BaselineNet(16, 12)
    with torch.no_grad():
        net.fc3.bias[:] = 1e4
    nll = missing_pixel_nll(net, batch["input"], batch["output"])
    nll.sum().backward()
    assert nll.isfinite().all() and all(
        p.grad is not None and p.grad.isfinite().all() for p in net.parameters()
    )
