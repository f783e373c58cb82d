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
    r"""Draw latent samples and return the logs of their importance weights, in nats.

    .. math:: \log w_s = \log p(y|z_s) + \log p(z_s|x) - \log r(z_s), \quad z_s \sim r

    Sohn, Lee, Yan (2015), section 4.3.

    Args:
        cvae: the model, which decodes all particles in one pass.
        xs, ys: images with missing pixels, and the missing pixels, both of shape (batch, h, w).
        num_particles: samples an image.
        proposal: what r is: the ``"recognition"`` network or the ``"prior"`` network.

    Returns:
        Shape (num_particles, batch).
    """
    p, r = (trace.nodes for trace in _traces(cvae, xs, ys, num_particles, proposal))
    return p["y"]["log_prob"] + p["z"]["log_prob"] - r["z"]["log_prob"]


def _traces(cvae: CVAE, xs: Tensor, ys: Tensor, particles: int, proposal: str) -> tuple[Trace, ...]:
    """Trace the proposal, and the model with its samples; the model's trace comes first."""
    plate = pyro.plate("particles", particles, dim=-2)
    model = plate(partial(cvae.model, xs, ys))
    guide = plate(partial(cvae.guide, xs, ys if proposal == "recognition" else None))
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return get_importance_trace("flat", 2, model, guide, (), {})


def monte_carlo(log_w: Tensor) -> Tensor:
    r"""Reduce log weights of shape (particles, batch) to the negative ELBO, shape (batch,).

    .. math:: -\frac{1}{S} \sum_s \log w_s
    """
    return -log_w.mean(0)


def importance_sampling(log_w: Tensor) -> Tensor:
    r"""Reduce log weights of shape (particles, batch) to the negative CLL, shape (batch,).

    .. math:: -\log \frac{1}{S} \sum_s w_s
    """
    return math.log(len(log_w)) - log_w.logsumexp(0)


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""How many equal weights would be worth as much as these, between 1 and their number S.

    .. math:: \Bigl(\sum_s w_s\Bigr)^2 \Big/ \sum_s w_s^2

    Kong (1992).  Few mean that importance sampling rests on few particles and is too high.

    Args:
        log_w: log weights, shape (particles, batch).

    Returns:
        Shape (batch,), in [1, S].
    """
    return 1 / log_w.softmax(0).square().sum(0)


def kl_divergences(model: Trace, guide: Trace) -> Tensor:
    r"""KL(q(z|x,y) || p(z|x)), nats, shape (*particles, batch, latents), from their two traces.

    It is in closed form where PyTorch knows one, and of each latent by itself where both
    distributions are independent in each.  Elsewhere it is estimated without bias by the samples
    in the traces, :math:`\log q(z|x,y) - \log p(z|x)`, and there is one column for all latents.
    """
    q, p = guide.nodes["z"], model.nodes["z"]
    try:
        if isinstance(q["fn"], Independent) and isinstance(p["fn"], Independent):
            return kl_divergence(q["fn"].base_dist, p["fn"].base_dist)
        return kl_divergence(q["fn"], p["fn"]).unsqueeze(-1)
    except NotImplementedError:
        return (q["fn"].log_prob(q["value"]) - p["fn"].log_prob(q["value"])).unsqueeze(-1)


def kl_per_latent(cvae: CVAE, dataset: Dataset) -> Tensor:
    """Compute :func:`kl_divergences` of every image, with one sample where that is sampled.

    Returns:
        Nats, float64 on the CPU, shape (latents, N).
    """
    traces = partial(_traces, cvae, particles=1, proposal="recognition")
    return _for_all_images(lambda xs, ys: kl_divergences(*traces(xs, ys)).squeeze(0).t(), dataset)


def estimate_cll(
    cvae: CVAE,
    dataset: Dataset,
    *,
    num_particles: int,
    proposal: str = "recognition",
    reduction: Callable[[Tensor], Tensor] = importance_sampling,
) -> Tensor:
    """Estimate the negative CLL of every image, in nats, in chunks that bound memory.

    Args:
        cvae, num_particles, proposal: as in :func:`log_weights`.
        dataset: samples with ``input`` and ``output``.
        reduction: makes values of shape (..., batch) from log weights of shape (particles, batch),
            as :func:`monte_carlo` and :func:`importance_sampling` make values of shape (batch,).

    Returns:
        Values of shape (..., N), float64 on the CPU.
    """

    def estimate(xs: Tensor, ys: Tensor) -> Tensor:
        log_w = [
            log_weights(cvae, xs, ys, num_particles=min(left, ROWS_AT_ONCE), proposal=proposal)
            for left in range(num_particles, 0, -ROWS_AT_ONCE)
        ]
        return reduction(torch.cat(log_w))

    return _for_all_images(estimate, dataset, num_particles)


def baseline_nll(net: BaselineNet, dataset: Dataset) -> Tensor:
    """Compute the baseline's negative CLL of every image: nats, shape (N,), float64 on the CPU."""
    return _for_all_images(lambda xs, ys: missing_pixel_nll(net, xs, ys).sum(-1), dataset)


@torch.no_grad()
def _for_all_images(
    compute: Callable[[Tensor, Tensor], Tensor], dataset: Dataset, num_particles: int = 1
) -> Tensor:
    """Compute values of shape (..., batch) for each batch, and put them together."""
    batches = make_loader(dataset, max(1, ROWS_AT_ONCE // num_particles))
    values = [compute(batch["input"], batch["output"]).cpu() for batch in batches]
    return torch.cat(values, dim=-1).double()
