"""The deterministic baseline: one prediction for each image, and the loss on the missing pixels."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BaselineNet", "MaskedBCELoss", "PixelNet", "gives_logits", "is_missing"]
__all__ += ["layer_outputs", "missing_pixel_nll", "scored_pixels"]


class PixelNet(nn.Module):
    """Network whose pixel probabilities are the sigmoid of its ``logits(*inputs, pixels=None)``.

    Losses and likelihoods ask for the logits of the pixels that they score, which is faster and
    does not saturate; of a net with a ``forward`` of its own, they ask for the probabilities.
    """

    logits: Callable[..., Tensor]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return probabilities in [0, 1] of all pixels; arguments are those of ``logits``."""
        return torch.sigmoid(self.logits(*inputs))


class BaselineNet(PixelNet):
    """Multi-layer perceptron that predicts every pixel from the known ones.

    Baseline "NN" of Sohn, Lee, Yan (2015), section 5.1.

    Args:
        hidden_1: units of the first hidden layer.
        hidden_2: units of the second hidden layer.
        num_pixels: height times width of an image.
    """

    def __init__(self, hidden_1: int = 500, hidden_2: int = 500, num_pixels: int = 784) -> None:
        super().__init__()
        self.num_pixels = num_pixels
        self.fc1 = nn.Linear(num_pixels, hidden_1)
        self.fc2 = nn.Linear(hidden_1, hidden_2)
        self.fc3 = nn.Linear(hidden_2, num_pixels)
        self.relu = nn.ReLU()

    def logits(self, x: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return the log odds of all pixels, or of the given ones, for images of any shape.

        Args:
            x: images with missing pixels, shape (batch, ...).
            pixels: indices, int64 of shape (P,) in [0, num_pixels).

        Returns:
            Shape (batch, num_pixels) or (batch, P).
        """
        hidden = self.relu(self.fc1(x.reshape(-1, self.num_pixels)))
        hidden = self.relu(self.fc2(hidden))
        return layer_outputs(self.fc3, hidden, pixels)


def layer_outputs(layer: nn.Linear, hidden: Tensor, selected: Tensor | None = None) -> Tensor:
    """Compute all outputs of a net's last layer, or the selected ones only.

    Args:
        layer: of I inputs and O outputs.
        hidden: its inputs, shape (..., I).
        selected: indices of outputs, int64 of shape (selected,) in [0, O).

    Returns:
        Shape (..., O) or (..., selected), in the precision of the weights, also where matrix
        products have a lower one.
    """
    hooks = [*layer._forward_pre_hooks, *layer._forward_hooks]  # as of nn.utils.weight_norm
    plain = type(layer) is nn.Linear and layer.bias is not None and not hooks
    if selected is None or not plain:
        outputs = layer(hidden).to(layer.weight.dtype)
        return outputs if selected is None else outputs.index_select(-1, selected)
    weight, bias = layer.weight.index_select(0, selected), layer.bias.index_select(0, selected)
    return F.linear(hidden, weight, bias).to(layer.weight.dtype)


class MaskedBCELoss(nn.Module):
    r"""Negative conditional log-likelihood of the missing pixels, in nats.

    .. math:: -\sum_i [y_i \log \hat y_i + (1 - y_i) \log(1 - \hat y_i)]

    over the pixels :math:`i` where the target is not ``masked_with``.  Logarithms stop at -100, so
    saturated predictions give finite losses.

    Args:
        masked_with: target value of the pixels that are not scored.
    """

    def __init__(self, masked_with: float = -1) -> None:
        super().__init__()
        self.masked_with = masked_with

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the sum over pixels and images, a scalar in nats.

        Args:
            input: probabilities, shape (batch, pixels).
            target: values in [0, 1] or ``masked_with``, of as many elements.
        """
        target = target.reshape(input.shape)
        scored = target != self.masked_with
        nll = F.binary_cross_entropy(input, target.where(scored, 0), reduction="none")
        return (nll * scored).sum()


def is_missing(x: Tensor) -> Tensor:
    """Tell which pixels are missing: those whose value, set by ``MaskImages``, is not in [0, 1]."""
    return x != x.clamp(0, 1)


def scored_pixels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | bool]:
    """Find the pixels to be scored: those that an image of a batch lacks, and whose truth is known.

    Args:
        x: images with missing pixels, shape (batch, ...); each may lack others.
        y: the missing pixels in [0, 1], in whole images of as many elements; other values are not
            scored.

    Returns:
        Indices of the pixels that are scored in any image, int64 of shape (scored,) in
        [0, num_pixels); their truth, shape (batch, scored), 0.5 where it is not scored; and a mask
        of what is scored, bool of the same shape, or True if all is.
    """
    known, whole = x.detach().flatten(1), y.flatten(1)
    # A traced graph would hold for ever what the first batch has in common.
    if len(x) and not torch.jit.is_tracing():
        least, most = known.amin(0), known.amax(0)
        lacking = (most < 0) | (least > 1)  # in all images; in none, if both are in [0, 1]
        indices = lacking.nonzero().squeeze(-1)
        if len(indices) and (lacking | ((least >= 0) & (most <= 1))).all():
            truth = whole.index_select(1, indices)
            lowest, highest = torch.stack(truth.detach().aminmax()).tolist()
            if 0 <= lowest and highest <= 1:
                return indices, truth, True
    scored = is_missing(known) & ~is_missing(whole)
    indices = scored.any(0).nonzero().squeeze(-1)
    scored = scored.index_select(1, indices)
    return indices, whole.index_select(1, indices).where(scored, 0.5), scored


def gives_logits(net: nn.Module) -> bool:
    """Tell whether a net is a :class:`PixelNet` without a ``forward`` of its own."""
    return getattr(net.forward, "__func__", None) is PixelNet.forward


def missing_pixel_nll(net: BaselineNet, x: Tensor, y: Tensor) -> Tensor:
    """Return what ``MaskedBCELoss`` sums, of :func:`scored_pixels` alone: shape (batch, scored)."""
    indices, truth, scored = scored_pixels(x, y)
    weight = None if isinstance(scored, bool) else scored.to(truth.dtype)
    if not gives_logits(net):
        prediction = net(x).index_select(1, indices)
        return F.binary_cross_entropy(prediction, truth, weight, reduction="none")
    logits = net.logits(x, indices)
    return F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="none")
