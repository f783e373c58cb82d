"""Estimators of the conditional log-likelihood (CLL) of each image: reductions of log weights."""

import math
from collections.abc import Callable
from functools import partial

import pyro
import torch
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.utils.data import Dataset

from cvae.baseline import BaselineNet, missing_pixel_nll
from cvae.data import make_loader
from cvae.model import CVAE

__all__ = ["baseline_nll", "effective_sample_size", "estimate_cll", "importance_sampling"]
__all__ += ["kl_divergences", "kl_per_latent", "log_weights", "monte_carlo"]

ROWS_AT_ONCE = 2048  # particles x images decoded together: few MB, which caches hold


def log_weights(
    cvae: CVAE, xs: Tensor, ys: Tensor, *, num_particles: int, proposal: str = "recognition"
) -> Tensor:
    r"""Log importance weights of latent samples, all particles in one pass.

    .. math:: w_s = \log p(y|z_s) + \log p(z_s|x) - \log r(z_s), \quad z_s \sim r

    Sohn, Lee, Yan (2015), section 4.3.

    Args:
        cvae: the model.
        xs: images with missing pixels, shape (batch, h, w).
        ys: the missing pixels, same shape.
        num_particles: samples an image.
        proposal: what r is: the ``"recognition"`` network or the ``"prior"`` network.

    Returns:
        Weights in nats, shape (num_particles, batch).
    """
    model, guide = _traces(cvae, xs, ys, num_particles, proposal)
    p, r = model.nodes, guide.nodes
    return p["y"]["log_prob"] + p["z"]["log_prob"] - r["z"]["log_prob"]


def _traces(
    cvae: CVAE, xs: Tensor, ys: Tensor, num_particles: int, proposal: str = "recognition"
) -> tuple[Trace, Trace]:
    """Trace the proposal, and the model with its samples; the model's trace comes first."""
    particles = pyro.plate("particles", num_particles, dim=-2)
    model = particles(partial(cvae.model, xs, ys))
    guide = particles(partial(cvae.guide, xs, ys if proposal == "recognition" else None))
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return get_importance_trace("flat", 2, model, guide, (), {})


def monte_carlo(weights: Tensor) -> Tensor:
    """Average log weights of shape (particles, batch) into the negative ELBO, shape (batch,)."""
    return -weights.mean(0)


def importance_sampling(weights: Tensor) -> Tensor:
    r"""Average weights into the negative CLL: :math:`-\log \frac{1}{S} \sum_s w_s`.

    Args:
        weights: logs, shape (particles, batch).

    Returns:
        Nats, shape (batch,).
    """
    return math.log(len(weights)) - weights.logsumexp(0)


def effective_sample_size(weights: Tensor) -> Tensor:
    r"""How many equal weights would be worth as much as these, between 1 and their number.

    .. math:: \Bigl(\sum_s w_s\Bigr)^2 \Big/ \sum_s w_s^2

    Kong (1992).  Few mean that importance sampling rests on few particles and is too high.

    Args:
        weights: logs, shape (particles, batch).

    Returns:
        Shape (batch,).
    """
    return 1 / weights.softmax(0).square().sum(0)


def kl_divergences(model: Trace, guide: Trace) -> Tensor:
    r"""KL(q(z|x,y) || p(z|x)), from the distributions of z in the traces of model and guide.

    It is in closed form where PyTorch knows one, and of each latent by itself where both
    distributions are independent in each.  Elsewhere it is estimated without bias by the samples in
    the traces, :math:`\log q(z|x,y) - \log p(z|x)`.

    Returns:
        Nats, shape (*particles, batch, latents); one column where the latents can't be told apart.
    """
    q, p = guide.nodes["z"], model.nodes["z"]
    try:
        if isinstance(q["fn"], Independent) and isinstance(p["fn"], Independent):
            return kl_divergence(q["fn"].base_dist, p["fn"].base_dist)
        return kl_divergence(q["fn"], p["fn"]).unsqueeze(-1)
    except NotImplementedError:
        z = q["value"]
        return (q["fn"].log_prob(z) - p["fn"].log_prob(z)).unsqueeze(-1)


def kl_per_latent(cvae: CVAE, dataset: Dataset) -> Tensor:
    """Compute :func:`kl_divergences` of every image, with one sample where there is no closed form.

    Returns:
        Nats, float64 on the CPU, shape (latents, N).
    """

    def kl(xs: Tensor, ys: Tensor) -> Tensor:
        return kl_divergences(*_traces(cvae, xs, ys, num_particles=1)).squeeze(0).t()

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
        dataset: samples with ``input`` and ``output``.
        num_particles: samples an image.
        proposal: where they come from, as in :func:`log_weights`.
        reduction: :func:`monte_carlo` or :func:`importance_sampling`, or what else makes values of
            shape (..., batch) from log weights of shape (particles, batch).

    Returns:
        Shape (..., N), float64 on the CPU; of those two (N,), in nats.
    """

    def estimate(xs: Tensor, ys: Tensor) -> Tensor:
        starts = range(0, num_particles, ROWS_AT_ONCE)
        chunks = [min(ROWS_AT_ONCE, num_particles - start) for start in starts]
        weights = [
            log_weights(cvae, xs, ys, num_particles=chunk, proposal=proposal) for chunk in chunks
        ]
        return reduction(torch.cat(weights))

    return _for_all_images(estimate, dataset, max(1, ROWS_AT_ONCE // num_particles))


def baseline_nll(net: BaselineNet, dataset: Dataset) -> Tensor:
    """Compute the baseline's negative CLL of every image: nats, shape (N,), float64 on the CPU."""

    def nll(xs: Tensor, ys: Tensor) -> Tensor:
        return missing_pixel_nll(net, xs, ys).sum(-1)

    return _for_all_images(nll, dataset, ROWS_AT_ONCE)


@torch.no_grad()
def _for_all_images(
    compute: Callable[[Tensor, Tensor], Tensor], dataset: Dataset, batch_size: int
) -> Tensor:
    """Compute values of shape (..., batch) for each batch, and put them together."""
    batches = make_loader(dataset, batch_size)
    values = [compute(batch["input"], batch["output"]).cpu() for batch in batches]
    return torch.cat(values, dim=-1).double()
