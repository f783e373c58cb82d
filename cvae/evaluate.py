"""Estimates of the conditional log-likelihood (CLL) from log weights, how far to trust them, and samples."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import Predictive
from pyro.infer.enum import get_importance_trace
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from cvae.baseline import BaselineNet, MaskedBCELoss
from cvae.data import CVAEMNIST, make_loader
from cvae.model import CVAE

__all__ = [
    "Estimate",
    "Evaluation",
    "baseline_nll",
    "draw_samples",
    "effective_sample_size",
    "estimate_cll",
    "evaluate",
    "importance_sampling",
    "kl_per_latent",
    "log_weights",
    "monte_carlo",
]

ROWS_AT_ONCE = 2048  # particles x images decoded together: few MB, which caches hold
ACTIVE = 0.01  # nats of KL, on average, from which on a latent variable counts as used


@dataclass(frozen=True)
class Estimate:
    """A mean over images, in nats.

    Attributes:
        mean: of negative CLLs, lower is better, or of what the row says, such as a difference of two.
        standard_error: of that mean, over images; None for a single image.
        num_images: images of the split.
        num_particles: latent samples an image; 0 where there are none.
    """

    mean: float
    standard_error: float | None
    num_images: int
    num_particles: int

    @classmethod
    def over(cls, per_image: Tensor, num_particles: int) -> "Estimate":
        """Sum values of shape (N,) and divide once."""
        n = len(per_image)
        standard_error = per_image.std().item() / math.sqrt(n) if n > 1 else None
        return cls(per_image.sum().item() / n, standard_error, n, num_particles)


@dataclass(frozen=True)
class Evaluation:
    """What is known about a model from the images of one split.

    Attributes:
        rows: the table's rows, in order.
        diagnostics: further rows, which tell how far to trust those and how the model uses its latent
            variables: estimates in nats, or plain numbers.
    """

    rows: dict[str, Estimate]
    diagnostics: dict[str, Estimate | float]


def log_weights(
    cvae: CVAE,
    xs: Tensor,
    ys: Tensor,
    y_hat: Tensor | None = None,
    *,
    num_particles: int,
    proposal: str = "recognition",
) -> Tensor:
    r"""Log importance weights of latent samples, all particles in one pass.

    .. math:: w_s = \log p(y|z_s) + \log p(z_s|x) - \log r(z_s), \quad z_s \sim r

    Sohn, Lee, Yan (2015), section 4.3.

    Args:
        cvae: the model.
        xs: images with missing pixels, shape (batch, 28, 28).
        ys: the missing pixels, same shape.
        y_hat: the baseline's guess, same shape, if it is known already.
        num_particles: samples an image.
        proposal: what r is: the ``"recognition"`` network or the ``"prior"`` network.

    Returns:
        Weights in nats, shape (num_particles, batch).
    """

    def in_particles(fn: Callable[..., Any], ys: Tensor | None) -> Callable[[], Any]:
        def run() -> Any:
            with pyro.plate("particles", num_particles, dim=-2):
                return fn(xs, ys, y_hat)

        return run

    model = in_particles(cvae.model, ys)
    guide = in_particles(cvae.guide, ys if proposal == "recognition" else None)
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        model_trace, guide_trace = get_importance_trace("flat", 2, model, guide, (), {})
    p, r = model_trace.nodes, guide_trace.nodes
    return p["y"]["log_prob"] + p["z"]["log_prob"] - r["z"]["log_prob"]


def monte_carlo(weights: Tensor) -> Tensor:
    """Average log weights of shape (particles, batch) into the negative ELBO, shape (batch,)."""
    return -weights.mean(0)


def importance_sampling(weights: Tensor) -> Tensor:
    """Average weights, given as logs of shape (particles, batch), into the negative CLL, shape (batch,)."""
    return math.log(len(weights)) - weights.logsumexp(0)


def effective_sample_size(weights: Tensor) -> Tensor:
    r"""How many equal weights would be worth as much as these, between 1 and the number of particles.

    .. math:: \Bigl(\sum_s w_s\Bigr)^2 \Big/ \sum_s w_s^2

    Kong (1992).  Few mean that importance sampling rests on few particles and is too high.

    Args:
        weights: logs, shape (particles, batch).

    Returns:
        Shape (batch,).
    """
    return 1 / weights.softmax(0).square().sum(0)


@torch.no_grad()
def kl_per_latent(cvae: CVAE, dataset: CVAEMNIST) -> Tensor:
    """Compute KL(q(z|x,y) || p(z|x)) of every image and latent: shape (N, z_dim), float64 on the CPU, in nats."""
    batches = []
    for batch in make_loader(dataset, ROWS_AT_ONCE):
        xs = batch["input"]
        y_hat = batch["guess"] if "guess" in batch else cvae.guess(xs)
        posterior, prior = Normal(*cvae.recognition_net(xs, batch["output"])), Normal(
            *cvae.prior_net(xs, y_hat)
        )
        batches.append(kl_divergence(posterior, prior).cpu())
    return torch.cat(batches).double()


def estimate_cll(
    cvae: CVAE,
    dataset: CVAEMNIST,
    *,
    num_particles: int,
    proposal: str = "recognition",
    reduction: Callable[[Tensor], Tensor] = importance_sampling,
) -> Tensor:
    """Estimate the negative CLL of every image of a data set, in chunks that bound memory.

    Args:
        cvae: the model.
        dataset: samples with ``input``, ``output`` and perhaps ``guess``.
        num_particles: samples an image.
        proposal: where they come from, as in :func:`log_weights`.
        reduction: :func:`monte_carlo` or :func:`importance_sampling`, or what else makes values of shape
            (..., batch) from log weights of shape (particles, batch).

    Returns:
        Shape (..., N), float64 on the CPU; of those two (N,), in nats.
    """
    per_image: list[Tensor] = []
    for batch in make_loader(dataset, max(1, ROWS_AT_ONCE // num_particles)):
        arguments = batch["input"], batch["output"], batch.get("guess")
        chunks = [
            log_weights(
                cvae, *arguments, num_particles=min(ROWS_AT_ONCE, num_particles - start), proposal=proposal
            )
            for start in range(0, num_particles, ROWS_AT_ONCE)
        ]
        per_image.append(reduction(torch.cat(chunks)).cpu())
    return torch.cat(per_image, dim=-1).double()


@torch.no_grad()
def baseline_nll(net: BaselineNet, dataset: CVAEMNIST) -> Tensor:
    """Compute the baseline's negative CLL of every image: shape (N,), float64 on the CPU, in nats."""
    loss = MaskedBCELoss(from_logits=True)
    batches = make_loader(dataset, ROWS_AT_ONCE)
    return torch.cat([loss.per_image(net.logits(b["input"]), b["output"]).cpu() for b in batches]).double()


def evaluate(
    cvae: CVAE, dataset: CVAEMNIST, *, num_particles: int = 10, num_importance_samples: int = 100
) -> Evaluation:
    """Fill one column of the table.

    Args:
        cvae: a trained model.
        dataset: the split to evaluate on.
        num_particles: for ``CVAE (Monte Carlo)``, the negative ELBO.
        num_importance_samples: for prior sampling and importance sampling.

    Returns:
        In its rows, ``Performance gap`` is baseline minus Monte Carlo, with the standard error of the
        differences image by image; ``KL`` and ``Reconstruction`` add up to Monte Carlo.  A latent is active
        if its KL is over 0.01 nats on average; the worst percentile is the one that 1 % of images lie below.
    """
    baseline = baseline_nll(cvae.baseline_net, dataset)
    elbo = estimate_cll(cvae, dataset, num_particles=num_particles, reduction=monte_carlo)
    prior = estimate_cll(cvae, dataset, num_particles=num_importance_samples, proposal="prior")
    importance, sample_sizes = estimate_cll(
        cvae,
        dataset,
        num_particles=num_importance_samples,
        reduction=lambda weights: torch.stack([importance_sampling(weights), effective_sample_size(weights)]),
    )
    latents = kl_per_latent(cvae, dataset)
    kl = latents.sum(-1)
    missing = (dataset[0]["output"] != cvae.masked_with).sum().item()
    return Evaluation(
        rows={
            "NN (baseline)": Estimate.over(baseline, 0),
            "CVAE (Monte Carlo)": Estimate.over(elbo, num_particles),
            "CVAE (prior sampling)": Estimate.over(prior, num_importance_samples),
            "CVAE (importance sampling)": Estimate.over(importance, num_importance_samples),
            "Performance gap": Estimate.over(baseline - elbo, num_particles),
        },
        diagnostics={
            "KL": Estimate.over(kl, 0),
            "Reconstruction": Estimate.over(elbo - kl, num_particles),
            "Performance gap per pixel": Estimate.over((baseline - elbo) / missing, num_particles),
            "Effective sample size, median": sample_sizes.median().item(),
            "Effective sample size, worst percentile": sample_sizes.quantile(0.01).item(),
            "Active latents": (latents.mean(0) > ACTIVE).sum().item(),
        },
    )


@torch.no_grad()
def draw_samples(cvae: CVAE, xs: Tensor, num_samples: int) -> Tensor:
    """Draw predictions for images with missing pixels.

    Args:
        cvae: the model.
        xs: shape (batch, 28, 28).
        num_samples: predictions an image, each from a latent sample of its own.

    Returns:
        Pixel probabilities in [0, 1], shape (num_samples, batch, 28, 28).
    """
    predictive = Predictive(
        cvae.model, guide=cvae.guide, num_samples=num_samples, return_sites=("y",), parallel=True
    )
    with pyro.get_param_store().scope():
        return predictive(xs)["y"].view(num_samples, *xs.shape)
