"""The deterministic baseline: one prediction per image, and the loss on the missing pixels."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from cvae import HIDDEN_1, HIDDEN_2, NUM_PIXELS

__all__ = ["BaselineNet", "MaskedBCELoss", "linear", "missing_pixel_indices"]


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

    def logits(self, x: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return the log odds of all pixels, shape (batch, num_pixels), or of the given ones only."""
        hidden = self.relu(self.fc1(x.reshape(-1, self.num_pixels)))
        hidden = self.relu(self.fc2(hidden))
        return linear(hidden, self.fc3, pixels)


def linear(hidden: Tensor, layer: nn.Linear, outputs: Tensor | None = None) -> Tensor:
    """Apply a layer, or of its outputs the given ones only, int64 of shape (chosen,)."""
    if outputs is None:
        return layer(hidden)
    return F.linear(hidden, layer.weight.index_select(0, outputs), layer.bias.index_select(0, outputs))


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


def missing_pixel_indices(x: Tensor, masked_with: float = -1) -> Tensor:
    """Return the indices, int64 in [0, num_pixels), of the pixels that the images ``x``, (batch, ...), lack.

    All images of a batch must lack the same pixels, as they do after ``MaskImages``; only the first is examined.
    """
    return (x[0].flatten() == masked_with).nonzero().squeeze(-1)
