"""The deterministic baseline: one guess per image, and the loss on the missing pixels."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from cvae import HIDDEN_1, HIDDEN_2, NUM_PIXELS

__all__ = ["BaselineNet", "MaskedBCELoss", "NarrowBaseline", "missing_pixels"]


class BaselineNet(nn.Module):
    """Multi-layer perceptron that predicts every pixel from the known ones.

    Baseline "NN" of Sohn, Lee, Yan (2015), section 5.1.

    Args:
        hidden_1: units of the first hidden layer.
        hidden_2: units of the second hidden layer.
        num_pixels: height times width of an image.
    """

    def __init__(
        self, hidden_1: int = HIDDEN_1, hidden_2: int = HIDDEN_2, num_pixels: int = NUM_PIXELS
    ) -> None:
        super().__init__()
        self.num_pixels = num_pixels
        self.fc1 = nn.Linear(num_pixels, hidden_1)
        self.fc2 = nn.Linear(hidden_1, hidden_2)
        self.fc3 = nn.Linear(hidden_2, num_pixels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return pixel probabilities in [0, 1], shape (batch, num_pixels), for images of any shape."""
        return torch.sigmoid(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """Return the log odds of all pixels, shape (batch, num_pixels)."""
        hidden = self.relu(self.fc1(x.reshape(-1, self.num_pixels)))
        hidden = self.relu(self.fc2(hidden))
        return self.fc3(hidden)


class NarrowBaseline(nn.Module):
    """The part of a baseline that can learn anything, where all images lack the same pixels.

    The missing pixels hold one value in all images, so all their weights in the first layer get the same
    gradient, and the same step from Adam: one input of as many times that value, with the mean of their
    weights, stands for them.  The outputs of known pixels are never scored.  So this net takes the steps
    that the whole one would take, in less time.

    Args:
        net: the whole baseline; its second layer is shared, the others are copied.
        missing: places of the missing pixels, as from :func:`missing_pixels`.
    """

    def __init__(self, net: BaselineNet, missing: Tensor) -> None:
        super().__init__()
        self.missing = missing
        everywhere = torch.ones(net.num_pixels, device=missing.device)
        self.known = everywhere.index_fill(0, missing, 0).nonzero().squeeze(-1)
        first, last = net.fc1.weight.detach(), net.fc3.weight.detach()
        self.fc1 = _layer(torch.cat([first[:, self.known], _mean_column(first, missing)], 1), net.fc1.bias)
        self.fc2 = net.fc2
        self.fc3 = _layer(last[missing], net.fc3.bias[missing])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the log odds of the missing pixels, shape (batch, missing), for whole images."""
        x = x.flatten(1)
        known, background = x.index_select(1, self.known), x[:, self.missing[:1]] * len(self.missing)
        hidden = self.relu(self.fc1(torch.cat([known, background], 1)))
        hidden = self.relu(self.fc2(hidden))
        return self.fc3(hidden)

    @torch.no_grad()
    def write_to(self, net: BaselineNet) -> None:
        """Put what was learned into the baseline that this one was cut from."""
        weight = net.fc1.weight
        weight[:, self.missing] += self.fc1.weight[:, -1:] - _mean_column(weight, self.missing)
        weight[:, self.known] = self.fc1.weight[:, :-1]
        net.fc1.bias.copy_(self.fc1.bias)
        net.fc3.weight[self.missing] = self.fc3.weight
        net.fc3.bias[self.missing] = self.fc3.bias


def _mean_column(weight: Tensor, columns: Tensor) -> Tensor:
    return weight[:, columns].mean(1, keepdim=True)


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Make a linear layer that starts from copies of these."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return layer


class MaskedBCELoss(nn.Module):
    r"""Negative conditional log-likelihood of the missing pixels, in nats.

    .. math:: -\sum_i [y_i \log \hat y_i + (1 - y_i) \log(1 - \hat y_i)]

    over the pixels :math:`i` where the target is not ``masked_with``.  Logarithms of probabilities stop at
    -100 and logits have no such limit; either way saturated predictions give finite losses.

    Args:
        masked_with: target value of the pixels that are not scored, outside [0, 1].
        from_logits: predictions are log odds rather than probabilities.
    """

    def __init__(self, masked_with: float = -1, from_logits: bool = False) -> None:
        super().__init__()
        self.masked_with = masked_with
        self.from_logits = from_logits

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the sum over pixels and images, a scalar in nats."""
        return self.per_image(input, target).sum()

    def per_image(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the sum over pixels, shape (batch,), for predictions of shape (batch, pixels)."""
        target = target.reshape(input.shape)
        scored = target != self.masked_with
        loss = F.binary_cross_entropy_with_logits if self.from_logits else F.binary_cross_entropy
        return (loss(input, target.where(scored, 0), reduction="none") * scored).sum(-1)


def missing_pixels(x: Tensor, masked_with: float = -1) -> Tensor:
    """Return the places, int64 in [0, pixels), of the pixels that images ``x``, (batch, ...), lack.

    All images of a batch lack the same ones, so the first image tells.
    """
    return (x[0].flatten() == masked_with).nonzero().squeeze(-1)
