"""The conditional variational auto-encoder: its three networks, Pyro model and guide."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import constraints

from cvae import HIDDEN_1, HIDDEN_2, NUM_PIXELS, Z_DIM
from cvae.baseline import BaselineNet, is_missing, linear, missing_pixel_indices
from cvae.choices import ACTIVATIONS, GENERATION_INPUTS, check_choice

__all__ = ["CVAE", "Decoder", "Encoder", "GreyBernoulli"]

MAX_LOG_SCALE = 20.0  # keeps scales, their squares and their inverses finite in single precision


class Encoder(nn.Module):
    """Diagonal Gaussian over the latent variables, given an image put together from two.

    Serves as the prior network p(z|x), with the baseline's prediction in the missing pixels, and as the
    recognition network q(z|x,y), with the truth there.

    Args:
        z_dim: number of latent variables.
        hidden_1: units of the first hidden layer.
        hidden_2: units of the second hidden layer.
        activation: of the hidden layers, one of ``cvae.choices.ACTIVATIONS``.
        num_pixels: height times width of an image.
    """

    def __init__(
        self,
        z_dim: int = Z_DIM,
        hidden_1: int = HIDDEN_1,
        hidden_2: int = HIDDEN_2,
        activation: str = "relu",
        num_pixels: int = NUM_PIXELS,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_pixels, hidden_1)
        self.fc2 = nn.Linear(hidden_1, hidden_2)
        self.fc31 = nn.Linear(hidden_2, z_dim)
        self.fc32 = nn.Linear(hidden_2, z_dim)
        check_choice(activation, ACTIVATIONS)
        self.activation = getattr(F, activation)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each of shape (batch, z_dim).

        Args:
            x: images of shape (batch, h, w) or (batch, num_pixels), with missing pixels.
            y: values for the missing pixels, in a whole image of the same size.
        """
        xc = torch.where(is_missing(x), y.view(x.shape), x)
        hidden = self.activation(self.fc1(xc.flatten(1)))
        hidden = self.activation(self.fc2(hidden))
        z_loc = linear(hidden, self.fc31)
        z_scale = torch.exp(linear(hidden, self.fc32).clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE))
        return z_loc, z_scale


class Decoder(nn.Module):
    """Pixel probabilities given the latent variables: the generation network p(y|z), or p(y|x,z).

    Args:
        z_dim: number of latent variables.
        hidden_1: units of the first hidden layer.
        hidden_2: units of the second hidden layer.
        activation: of the hidden layers, one of ``cvae.choices.ACTIVATIONS``.
        generation_input: ``"z"`` as in the tutorial, or ``"xz"`` as in the paper, for which a layer ``fc0``
            of the input image adds to the first one.
        num_pixels: height times width of an image.
    """

    def __init__(
        self,
        z_dim: int = Z_DIM,
        hidden_1: int = HIDDEN_1,
        hidden_2: int = HIDDEN_2,
        activation: str = "relu",
        generation_input: str = "z",
        num_pixels: int = NUM_PIXELS,
    ) -> None:
        super().__init__()
        check_choice(generation_input, GENERATION_INPUTS)
        self.fc0 = nn.Linear(num_pixels, hidden_1, bias=False) if generation_input == "xz" else None
        self.fc1 = nn.Linear(z_dim, hidden_1)
        self.fc2 = nn.Linear(hidden_1, hidden_2)
        self.fc3 = nn.Linear(hidden_2, num_pixels)
        check_choice(activation, ACTIVATIONS)
        self.activation = getattr(F, activation)

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Return pixel probabilities in [0, 1], shape (*particles, batch, num_pixels).

        Args:
            z: shape (*particles, batch, z_dim).
            x: input images with 0 in the missing pixels, shape (batch, num_pixels), for a net that sees them.
        """
        return torch.sigmoid(self.logits(z, x))

    def logits(self, z: Tensor, x: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
        """Return the log odds of all pixels, shape (*particles, batch, num_pixels), or of the given ones only."""
        hidden = self.fc1(z)
        if self.fc0 is not None:
            hidden = hidden + self.fc0(x)
        hidden = self.activation(self.fc2(self.activation(hidden)))
        return linear(hidden, self.fc3, pixels)


class GreyBernoulli(dist.Bernoulli):
    r"""Bernoulli whose formula also scores grey values, in [0, 1].

    .. math:: y \log p + (1 - y) \log(1 - p) = y l - \log(1 + e^l), \quad l = \log \frac{p}{1 - p}

    For grey values that is a cross-entropy and no normalised likelihood.
    """

    support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the formula's value in nats, in the shape of ``value`` and the logits together."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - F.softplus(self.logits)


class CVAE(PyroModule):
    r"""Conditional variational auto-encoder on top of a trained baseline.

    .. math:: p(y|x) = \int p(y|x, z) \, p(z|x, \hat y(x)) \, dz

    Sohn, Lee, Yan (2015), section 4, where :math:`\hat y` is the baseline's prediction.  By default, as in the
    tutorial, the generation network sees x through z alone.  The baseline is frozen: it is never trained here, and
    always predicts in evaluation mode.

    The networks are attributes that can be replaced.  ``prior_net`` and ``recognition_net`` map images with missing
    pixels and values for these to mean and standard deviation of z, like :class:`Encoder`.  ``generation_net`` maps
    z of shape (*particles, batch, z_dim) to probabilities of all pixels, shape (*particles, batch, num_pixels), and
    with ``generation_input="xz"`` it is called with the known pixels too, like :class:`Decoder`.  Every parameter of
    the CVAE that is not the baseline's is trained and saved: further modules, and ``nn.Parameter`` or ``PyroParam``
    attributes, too.

    Args:
        z_dim: number of latent variables.
        hidden_1: units of the first hidden layer of each network.
        hidden_2: units of the second hidden layer of each network.
        pre_trained_baseline_net: the trained baseline, whose parameters are frozen; without one, a new net that
            waits for ``load_state_dict``.
        masked_with: value of missing pixels in the images that the baseline was trained with, outside [0, 1].
            Only :class:`cvae.trained.TrainedCVAE` needs it: to the model, every such value means a missing pixel.
        activation: of the hidden layers, one of ``cvae.choices.ACTIVATIONS``; the baseline's own stay ReLU.
        generation_input: what the generation network sees, one of
            ``cvae.choices.GENERATION_INPUTS``.
        num_pixels: height times width of an image.

    Raises:
        ValueError: ``masked_with`` lies in [0, 1], where it could not be told from a pixel; or no activation
            or input has that name.
    """

    def __init__(
        self,
        z_dim: int = Z_DIM,
        hidden_1: int = HIDDEN_1,
        hidden_2: int = HIDDEN_2,
        pre_trained_baseline_net: BaselineNet | None = None,
        masked_with: float = -1,
        activation: str = "relu",
        generation_input: str = "z",
        num_pixels: int = NUM_PIXELS,
    ) -> None:
        super().__init__()
        if 0 <= masked_with <= 1:
            raise ValueError(f"masked_with must lie outside [0, 1], where pixels are, not at {masked_with}")
        if pre_trained_baseline_net is None:
            pre_trained_baseline_net = BaselineNet(hidden_1, hidden_2, num_pixels)
        self.baseline_net = pre_trained_baseline_net.requires_grad_(False).eval()
        self.prior_net = Encoder(z_dim, hidden_1, hidden_2, activation, num_pixels)
        self.generation_net = Decoder(z_dim, hidden_1, hidden_2, activation, generation_input, num_pixels)
        self.recognition_net = Encoder(z_dim, hidden_1, hidden_2, activation, num_pixels)
        self.generation_input = generation_input
        self.masked_with = masked_with

    def train(self, mode: bool = True) -> "CVAE":
        """Set the mode of all networks but the baseline."""
        super().train(mode)
        self.baseline_net.eval()
        return self

    @torch.no_grad()
    def baseline_predictions(self, xs: Tensor) -> Tensor:
        """Return the baseline's predictions, in the shape of ``xs``; no gradient reaches the baseline."""
        return self.baseline_net(xs).view(xs.shape)

    def register_parameters(self) -> None:
        """Tell Pyro of all parameters that are not frozen, as the baseline's are; called within a model."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                pyro.param(name, parameter)

    def model(self, xs: Tensor, ys: Tensor | None = None, y_hat: Tensor | None = None) -> Tensor | None:
        """Draw z from the prior network and score, or predict, the missing pixels.

        Sites: ``"z"`` of event shape (z_dim,); ``"y"``, observed on the missing pixels when ``ys`` is
        given, else the probabilities of all pixels.  Plate: ``"data"``, over images, at dim -1.

        Args:
            xs: images with missing pixels, shape (batch, h, w) or (batch, num_pixels); all lack the same ones.
            ys: the missing pixels in [0, 1], in whole images of the same shape.
            y_hat: the baseline's predictions, same shape, if they are cached.

        Returns:
            Without ``ys``, pixel probabilities of shape (*particles, batch, num_pixels).

        Raises:
            ValueError: with ``ys`` and Pyro's validation on, its default: some images lack other pixels.
        """
        self.register_parameters()
        with pyro.plate("data", xs.shape[0], dim=-1):
            prior = self.prior_net(xs, self.baseline_predictions(xs) if y_hat is None else y_hat)
            zs = pyro.sample("z", dist.Normal(*prior).to_event(1))
            known = None if self.generation_input == "z" else xs.masked_fill(is_missing(xs), 0).flatten(1)
            inputs = (zs,) if known is None else (zs, known)
            if ys is None:
                loc = self.generation_net(*inputs)
                # Probabilities show grey pixels better than samples of 0 or 1 would.
                pyro.deterministic("y", loc.detach(), event_dim=1)
                return loc
            if is_validation_enabled() and (is_missing(xs) != is_missing(xs[:1])).any():
                raise ValueError("the images of a batch must all lack the same pixels: make a batch for each mask")
            missing = missing_pixel_indices(xs)
            if isinstance(self.generation_net, Decoder):  # computes these pixels alone; another net computes all
                missing_pixels = GreyBernoulli(logits=self.generation_net.logits(zs, known, missing))
            else:
                missing_pixels = GreyBernoulli(probs=self.generation_net(*inputs).index_select(-1, missing))
            pyro.sample("y", missing_pixels.to_event(1), obs=ys.flatten(1).index_select(-1, missing))
            return None

    def guide(self, xs: Tensor, ys: Tensor | None = None, y_hat: Tensor | None = None) -> None:
        """Draw z from the recognition network, or without ``ys`` from the prior network.

        Arguments are those of :meth:`model`.
        """
        with pyro.plate("data", xs.shape[0], dim=-1):
            if ys is None:
                loc, scale = self.prior_net(xs, self.baseline_predictions(xs) if y_hat is None else y_hat)
            else:
                loc, scale = self.recognition_net(xs, ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))
