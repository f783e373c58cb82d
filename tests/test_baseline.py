import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli

from cvae.baseline import (
    BaselineNet,
    MaskedBCELoss,
    layer_outputs,
    missing_pixel_nll,
    scored_pixels,
)


def hidden_layers(net, x, activation=torch.relu):
    """The tutorial's formula, which all of its networks begin with."""
    for layer in (net.fc1, net.fc2):
        x = activation(x @ layer.weight.T + layer.bias)
    return x


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 1, 28, 28), (5, 784)])
def test_output_is_the_tutorials_formula(shape):
    net, x = BaselineNet(16, 12), torch.rand(shape)
    log_odds = hidden_layers(net, x.view(5, 784)) @ net.fc3.weight.T + net.fc3.bias
    torch.testing.assert_close(net(x), 1 / (1 + torch.exp(-log_odds)))


@pytest.mark.parametrize("normalise", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_selected_outputs_are_of_the_weight_that_a_layer_computes(normalise):
    layer, hidden, selected = normalise(nn.Linear(4, 6)), torch.rand(3, 4), torch.tensor([5, 2])
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    outputs = layer_outputs(layer, hidden, selected)
    torch.testing.assert_close(outputs, layer(hidden)[:, selected])


def test_selected_outputs_are_those_of_any_layer():
    hooked, hidden, selected = nn.Linear(4, 6), torch.rand(3, 4), torch.tensor([5, 2])
    hooked.register_forward_hook(lambda layer, args, output: 2 * output)
    for layer in (hooked, nn.Linear(4, 6, bias=False)):
        torch.testing.assert_close(
            layer_outputs(layer, hidden, selected), layer(hidden)[:, selected]
        )


@pytest.mark.parametrize("mask_with", [-1, -2, 5, float("inf")])
def test_scored_pixels_are_found_whatever_marks_missing_ones(batch, mask_with):
    x, y = (torch.where(batch[key] == -1, mask_with, batch[key]) for key in ("input", "output"))
    pixels, truth, scored = scored_pixels(x, y)
    assert (x.view(8, 784)[:, pixels] == mask_with).all() and scored is True
    assert torch.equal(truth, y.view(8, 784)[:, pixels])
    assert len(pixels) == (x[0] == mask_with).sum() == (batch["output"][0] != -1).sum()


@pytest.mark.parametrize("mask_with", [-1, 5])
def test_each_image_is_scored_by_its_own_mask(mask_with):
    """Two with opposite halves missing, and one of whose truth some is unknown."""
    net, images = BaselineNet(8, 8, 16), torch.rand(3, 4, 4)
    known = torch.zeros(3, 4, 4, dtype=torch.bool)
    known[0, :, :2] = known[1:, :, 2:] = True
    x, y = images.where(known, mask_with), images.where(~known, mask_with)
    y[2, 0] = mask_with
    pixels, _, scored = scored_pixels(x, y)
    assert (
        isinstance(scored, torch.Tensor)
        and scored.sum(1).tolist() == [8, 8, 6]
        and len(pixels) == 16
    )
    torch.testing.assert_close(
        missing_pixel_nll(net, x, y).sum(), MaskedBCELoss(mask_with)(net(x), y)
    )


@pytest.mark.parametrize("masked_with", [-1, -3, float("inf")])
def test_loss_is_the_bernoulli_likelihood_of_the_missing_pixels(batch, masked_with):
    target = torch.where(batch["output"] == -1, masked_with, batch["output"])
    probabilities = torch.rand(8, 784) * 0.98 + 0.01
    bernoulli = Bernoulli(probabilities, validate_args=False)
    scores = bernoulli.log_prob(batch["output"].view(8, 784))
    expected = -(scores * (batch["output"] != -1).view(8, 784)).sum()
    torch.testing.assert_close(MaskedBCELoss(masked_with)(probabilities, target), expected)


@pytest.mark.parametrize("mask_with", [-1, -2, 5])
def test_training_and_scoring_have_the_same_loss_whatever_marks_missing_pixels(batch, mask_with):
    net = BaselineNet(16, 12)
    x, y = (torch.where(batch[key] == -1, mask_with, batch[key]) for key in ("input", "output"))
    nll = missing_pixel_nll(net, x, y)
    assert nll.shape == (8, (y[0] != mask_with).sum())
    torch.testing.assert_close(nll.sum(), MaskedBCELoss(mask_with)(net(x), y))


def test_saturated_predictions_stay_finite(batch):
    wrong = (batch["output"].view(8, 784) < 0.5).float()  # as sure as can be, and wrong
    wrong.requires_grad_()
    value = MaskedBCELoss()(wrong, batch["output"])
    (gradient,) = torch.autograd.grad(value, wrong)
    assert value.isfinite() and gradient.isfinite().all()
    net = BaselineNet(16, 12)
    with torch.no_grad():
        net.fc3.bias.fill_(1e4)
    nll = missing_pixel_nll(net, batch["input"], batch["output"])
    gradients = torch.autograd.grad(nll.sum(), list(net.parameters()))
    assert nll.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
