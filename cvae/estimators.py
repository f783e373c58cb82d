"""Estimators of the conditional log-likelihood (CLL), one value an image: reductions of log weights."""

import math
from collections.abc import Callable
from functools import partial

import pyro
import torch
from pyro.infer.enum import get_importance_trace
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils.data import Dataset

from cvae.baseline import BaselineNet, missing_pixel_nll
from cvae.images.loader import make_loader
from cvae.model import CVAE

__all__ = ["baseline_nll", "effective_sample_size", "estimate_cll", "importance_sampling", "kl_per_latent"]
__all__ += ["log_weights", "monte_carlo"]

Batch = dict[str, Tensor]

ROWS_AT_ONCE = 2048  # particles x images decoded together: few MB, which caches hold


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
        xs: images with missing pixels, shape (batch, h, w).
        ys: the missing pixels, same shape.
        y_hat: the baseline's predictions, same shape, if they are cached.
        num_particles: samples an image.
        proposal: what r is: the ``"recognition"`` network or the ``"prior"`` network.

    Returns:
        Weights in nats, shape (num_particles, batch).
    """
    particles = pyro.plate("particles", num_particles, dim=-2)
    model = particles(partial(cvae.model, xs, ys, y_hat))
    guide = particles(partial(cvae.guide, xs, ys if proposal == "recognition" else None, y_hat))
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
def kl_per_latent(cvae: CVAE, dataset: Dataset) -> Tensor:
    """Compute KL(q(z|x,y) || p(z|x)) of every image and latent: shape (z_dim, N), float64 on the CPU, in nats."""

    def kl(batch: Batch) -> Tensor:
        xs = batch["input"]
        y_hat = batch["y_hat"] if "y_hat" in batch else cvae.baseline_predictions(xs)
        return kl_divergence(Normal(*cvae.recognition_net(xs, batch["output"])), Normal(*cvae.prior_net(xs, y_hat))).t()

    return _for_all_images(kl, dataset, ROWS_AT_ONCE)


def estimate_cll(
    cvae: CVAE,
    dataset: Dataset,
    *,
    num_particles: int,
    proposal: str = "recognition",
    reduction: Callable[[Tensor], Tensor] = importance_sampling,
) -> Tensor:
    """Estimate the negative CLL of every image of a data set, in chunks that bound memory.

    Args:
        cvae: the model.
        dataset: samples with ``input``, ``output`` and, if it is cached, ``y_hat``.
        num_particles: samples an image.
        proposal: where they come from, as in :func:`log_weights`.
        reduction: :func:`monte_carlo` or :func:`importance_sampling`, or what else makes values of shape
            (..., batch) from log weights of shape (particles, batch).

    Returns:
        Shape (..., N), float64 on the CPU; of those two (N,), in nats.
    """

    def estimate(batch: Batch) -> Tensor:
        arguments = cvae, batch["input"], batch["output"], batch.get("y_hat")
        chunks = [min(ROWS_AT_ONCE, num_particles - start) for start in range(0, num_particles, ROWS_AT_ONCE)]
        weights = [log_weights(*arguments, num_particles=chunk, proposal=proposal) for chunk in chunks]
        return reduction(torch.cat(weights))

    return _for_all_images(estimate, dataset, max(1, ROWS_AT_ONCE // num_particles))


@torch.no_grad()
def baseline_nll(net: BaselineNet, dataset: Dataset) -> Tensor:
    """Compute the baseline's negative CLL of every image: shape (N,), float64 on the CPU, in nats."""

    def nll(batch: Batch) -> Tensor:
        return missing_pixel_nll(net, batch["input"], batch["output"]).sum(-1)

    return _for_all_images(nll, dataset, ROWS_AT_ONCE)


def _for_all_images(compute: Callable[[Batch], Tensor], dataset: Dataset, batch_size: int) -> Tensor:
    """Compute values of shape (..., batch) for each batch, and put them together."""
    return torch.cat([compute(batch).cpu() for batch in make_loader(dataset, batch_size)], dim=-1).double()
