"""The conditional variational auto-encoder: its three networks, Pyro model and guide."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor

from cvae.baseline import (
    BaselineNet,
    PixelNet,
    gives_logits,
    is_missing,
    layer_outputs,
    scored_pixels,
)
from cvae.files import ModelError

__all__ = ["ACTIVATIONS", "GENERATION_INPUTS", "CVAE", "Decoder", "Encoder", "ResidualBlock"]

ACTIVATIONS = ("relu", "silu")  # functions of torch.nn.functional
GENERATION_INPUTS = ("z", "xz")  # p(y|z) as in the tutorial, p(y|x,z) as in the paper
MAX_LOG_SCALE = 20.0  # keeps scales, their squares and their inverses finite in single precision


class ResidualBlock(nn.Module):
    r"""Two layers that add to what they are given; a new block adds nothing.

    .. math:: h + W_2 \, a(W_1 h + b_1) + b_2

    He, Zhang, Ren, Sun (2016), with :math:`W_2 = b_2 = 0` at the start.

    Args:
        width: number of units.
        activation: :math:`a`, ``"relu"`` or ``"silu"``.
    """

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)
        self.activation = getattr(F, activation)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return a tensor of the same shape, (..., width)."""
        return hidden + self.fc2(self.activation(self.fc1(hidden)))


def make_blocks(number: int, width: int, activation: str) -> nn.Sequential:
    """Make residual blocks, one after another; without any, what comes in goes out."""
    return nn.Sequential(*(ResidualBlock(width, activation) for _ in range(number)))


class Encoder(nn.Module):
    """Diagonal Gaussian over the latent variables, given an image put together from two.

    Serves as the prior network p(z|x), with the baseline's prediction in the missing pixels, and as
    the recognition network q(z|x,y), with the truth there.

    Args:
        z_dim: number of latent variables.
        hidden_1: units of the first hidden layer.
        hidden_2: units of the second hidden layer.
        activation: of the hidden layers, ``"relu"`` or ``"silu"``.
        num_pixels: height times width of an image.
        residual_blocks: number of them after the hidden layers.
    """

    def __init__(
        self,
        z_dim: int = 200,
        hidden_1: int = 500,
        hidden_2: int = 500,
        activation: str = "relu",
        num_pixels: int = 784,
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_pixels, hidden_1)
        self.fc2 = nn.Linear(hidden_1, hidden_2)
        self.blocks = make_blocks(residual_blocks, hidden_2, activation)
        self.fc31 = nn.Linear(hidden_2, z_dim)
        self.fc32 = nn.Linear(hidden_2, z_dim)
        self.activation = getattr(F, activation)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each of shape (batch, z_dim).

        Args:
            x: images of shape (batch, h, w) or (batch, num_pixels), with missing pixels.
            y: values for the missing pixels, in a whole image of the same size, cut to [0, 1].
        """
        xc = torch.where(is_missing(x), y.view(x.shape), x).clamp_(0, 1)
        hidden = self.activation(self.fc1(xc.flatten(1)))
        hidden = self.blocks(self.activation(self.fc2(hidden)))
        z_loc, log_scale = layer_outputs(self.fc31, hidden), layer_outputs(self.fc32, hidden)
        return z_loc, torch.exp(log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE))


class Decoder(PixelNet):
    """Pixel probabilities given the latent variables: the generation network p(y|z), or p(y|x,z).

    Args:
        generation_input: ``"z"`` as in the tutorial, or ``"xz"`` as in the paper, for which a layer
            ``fc0`` of the input image adds to the first one.

    Other arguments are those of :class:`Encoder`.
    """

    def __init__(
        self,
        z_dim: int = 200,
        hidden_1: int = 500,
        hidden_2: int = 500,
        activation: str = "relu",
        generation_input: str = "z",
        num_pixels: int = 784,
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        sees_x = generation_input == "xz"
        self.fc0 = nn.Linear(num_pixels, hidden_1, bias=False) if sees_x else None
        self.fc1 = nn.Linear(z_dim, hidden_1)
        self.fc2 = nn.Linear(hidden_1, hidden_2)
        self.blocks = make_blocks(residual_blocks, hidden_2, activation)
        self.fc3 = nn.Linear(hidden_2, num_pixels)
        self.activation = getattr(F, activation)

    def logits(self, z: Tensor, x: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
        """Return the log odds of all pixels, or of the given ones.

        Args:
            z: shape (*particles, batch, z_dim).
            x: input images with 0 in the missing pixels, shape (batch, num_pixels), for a network
                that sees them.
            pixels: indices, int64 of shape (P,) in [0, num_pixels).

        Returns:
            Shape (*particles, batch, num_pixels) or (*particles, batch, P).
        """
        hidden = self.fc1(z)
        if self.fc0 is not None:
            hidden = hidden + self.fc0(x)
        hidden = self.activation(self.fc2(self.activation(hidden)))
        return layer_outputs(self.fc3, self.blocks(hidden), pixels)


class CVAE(PyroModule):
    r"""Conditional variational auto-encoder on top of a trained baseline.

    .. math:: p(y|x) = \int p(y|x, z) \, p(z|x, \hat y(x)) \, dz

    Sohn, Lee, Yan (2015), section 4, where :math:`\hat y` is the baseline's prediction.  By
    default, as in the tutorial, the generation network sees x through z alone.  The baseline is
    frozen: it is never trained here, and always predicts in evaluation mode.

    The networks are attributes that can be replaced, by anything that has ``forward``.
    ``prior_net`` and ``recognition_net`` map images with missing pixels and values for these to
    mean and standard deviation of z, like :class:`Encoder`.  ``generation_net`` maps z of shape
    (*particles, batch, z_dim) to probabilities of all pixels, shape (*particles, batch,
    num_pixels), and with ``generation_input="xz"`` it is called with the known pixels too, like
    :class:`Decoder`.  The distributions can be replaced too: :meth:`prior`, :meth:`posterior` and
    :meth:`likelihood`.  Every parameter that is not the baseline's is trained and saved: further
    modules, ``nn.Parameter`` and ``PyroParam`` attributes.

    Args:
        pre_trained_baseline_net: the trained baseline, whose parameters are frozen; without one, a
            new network that waits for ``load_state_dict``.
        residual_blocks: number of them in each encoder; the generation network has twice as many.

    Other arguments are those of :class:`Encoder` and :class:`Decoder`.

    Raises:
        ValueError: no activation or input has that name.
    """

    def __init__(
        self,
        z_dim: int = 200,
        hidden_1: int = 500,
        hidden_2: int = 500,
        pre_trained_baseline_net: BaselineNet | None = None,
        activation: str = "relu",
        generation_input: str = "z",
        num_pixels: int = 784,
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("activation", activation, ACTIVATIONS),
            ("generation_input", generation_input, GENERATION_INPUTS),
        ):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}; choose {' or '.join(choices)}")
        if pre_trained_baseline_net is None:
            pre_trained_baseline_net = BaselineNet(hidden_1, hidden_2, num_pixels)
        sizes = z_dim, hidden_1, hidden_2, activation
        self.baseline_net = pre_trained_baseline_net.requires_grad_(False).eval()
        self.prior_net: Any = Encoder(*sizes, num_pixels, residual_blocks)
        self.generation_net: Any = Decoder(
            *sizes, generation_input, num_pixels, 2 * residual_blocks
        )
        self.recognition_net: Any = Encoder(*sizes, num_pixels, residual_blocks)
        self.generation_input = generation_input

    def train(self, mode: bool = True) -> "CVAE":
        """Set the mode of all networks but the baseline."""
        super().train(mode)
        self.baseline_net.eval()
        return self

    @torch.no_grad()
    def baseline_predictions(self, xs: Tensor) -> Tensor:
        """Return the baseline's predictions, in the shape of ``xs``; they carry no gradient."""
        return self.baseline_net(xs).view(xs.shape)

    def prior(self, xs: Tensor) -> dist.TorchDistribution:
        """Return p(z|x), batch shape (batch,) and event shape (z_dim,)."""
        return dist.Normal(*self.prior_net(xs, self.baseline_predictions(xs))).to_event(1)

    def posterior(self, xs: Tensor, ys: Tensor) -> dist.TorchDistribution:
        """Return q(z|x,y), batch shape (batch,) and event shape (z_dim,)."""
        return dist.Normal(*self.recognition_net(xs, ys)).to_event(1)

    def likelihood(
        self, zs: Tensor, xs: Tensor, pixels: Tensor | None = None
    ) -> dist.TorchDistribution:
        """Return p(y|z), or p(y|x,z), of pixels in [0, 1]; its mean is what the model predicts.

        Args:
            zs: latent variables, shape (*particles, batch, z_dim).
            xs: images with missing pixels, shape (batch, h, w) or (batch, num_pixels).
            pixels: indices of those that are asked for, int64 of shape (P,); by default all.

        Returns:
            Batch shape (*particles, batch, P); or, where pixels depend on each other, batch shape
            (*particles, batch) and event shape (P,), if all images of a batch lack the same ones.
        """
        net, sees_x = self.generation_net, self.generation_input == "xz"
        known = xs.masked_fill(is_missing(xs), 0).flatten(1) if sees_x else None
        # Targets are grey, which the formula takes, though they are not in the support.
        if gives_logits(net):
            logits = net.logits(zs, known, pixels)
            return dist.Bernoulli(logits=logits, validate_args=False)
        probs = net(zs) if known is None else net(zs, known)
        probs = probs if pixels is None else probs.index_select(-1, pixels)
        return dist.Bernoulli(probs, validate_args=False)

    def register_parameters(self) -> None:
        """Tell Pyro, from within a model, of all parameters that are not frozen."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                pyro.param(name, parameter)

    def model(self, xs: Tensor, ys: Tensor | None = None) -> Tensor | None:
        """Draw z from the prior network and score, or predict, the missing pixels.

        Sites: ``"z"`` of event shape (z_dim,); ``"y"``, observed on the missing pixels when ``ys``
        is given, else the prediction of all pixels.  Plate: ``"data"``, over images, at dim -1.

        Args:
            xs: images with missing pixels, shape (batch, h, w) or (batch, num_pixels); each may
                lack others.
            ys: the missing pixels in [0, 1], in whole images of the same shape; what is outside
                is not scored.

        Returns:
            Without ``ys``, the mean of :meth:`likelihood`, for the plain model probabilities, shape
            (*particles, batch, num_pixels).

        Raises:
            ModelError: pixels depend on each other, and images lack different ones.
        """
        self.register_parameters()
        with pyro.plate("data", len(xs), dim=-1):
            zs = pyro.sample("z", self.prior(xs))
            if ys is None:
                loc = self.likelihood(zs, xs).mean
                # Probabilities show grey pixels better than samples of 0 or 1 would.
                pyro.deterministic("y", loc.detach(), event_dim=1)
                return loc
            pixels, truth, scored = scored_pixels(xs, ys)
            likelihood = self.likelihood(zs, xs, pixels)
            while isinstance(likelihood, dist.Independent):
                likelihood = likelihood.base_dist
            if likelihood.event_dim and scored is not True:
                which = "images that lack different pixels, and compiled bounds,"
                raise ModelError(f"{which} need a likelihood of independent pixels")
            likelihood = likelihood.mask(scored)
            pyro.sample("y", likelihood.to_event(1 - likelihood.event_dim), obs=truth)
            return None

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        """Draw z from the recognition network, or without ``ys`` from the prior network.

        Arguments are those of :meth:`model`.
        """
        with pyro.plate("data", len(xs), dim=-1):
            pyro.sample("z", self.prior(xs) if ys is None else self.posterior(xs, ys))
