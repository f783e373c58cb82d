"""Estimators of the conditional log-likelihood (CLL) of each image: reductions of log weights."""

import math
from collections.abc import Callable
from functools import partial

import pyro
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from cvae.baseline import BaselineNet, missing_pixel_nll, scored_pixels
from cvae.data import make_loader
from cvae.files import ModelError
from cvae.model import CVAE
from cvae.onednn import fast_products
from cvae.random_numbers import own_random_numbers
from cvae.traces import check_sites, get_trace, kl_divergences, log_density, log_prob, random_sites

__all__ = ["baseline_nll", "effective_sample_size", "estimate_cll", "importance_sampling"]
__all__ += ["check_model", "kl_per_latent", "likelihood_kind", "log_weights", "monte_carlo"]
__all__ += ["pixel_counts"]

ROWS_AT_ONCE = 2048  # particles x images decoded together: few MB, which caches hold


def log_weights(
    cvae: CVAE, xs: Tensor, ys: Tensor, *, num_particles: int, proposal: str = "recognition"
) -> Tensor:
    r"""Draw latent samples and return the logs of their importance weights, in nats.

    .. math:: \log w_s = \log p(y|z_s) + \log p(z_s|x) - \log r(z_s), \quad z_s \sim r

    Sohn, Lee, Yan (2015), section 4.3.  With several latent sites, z are all of them.  The
    densities are the model's: a ``poutine.mask`` counts, but not a ``poutine.scale``, which weighs
    the terms of a bound.

    Args:
        cvae: the model, which decodes all particles in one pass.
        xs, ys: images with missing pixels, and the missing pixels, both of shape (batch, h, w).
        num_particles: samples an image.
        proposal: what r is: the ``"recognition"`` network or the ``"prior"`` network.

    Returns:
        Shape (num_particles, batch).

    Raises:
        ModelError: model or guide has a ``pyro.factor``, or a site that is not one of each image.
    """
    model, guide = _traces(cvae, xs, ys, num_particles, proposal)
    check_sites(model, guide, (num_particles, len(xs)))
    return log_density(model) - log_density(guide)


@fast_products()
def _traces(cvae: CVAE, xs: Tensor, ys: Tensor, particles: int, proposal: str) -> tuple[Trace, ...]:
    """Trace the proposal, and the model with its samples; the model's trace comes first."""
    plate = pyro.plate("particles", particles, dim=-2)
    model = plate(partial(cvae.model, xs, ys))
    guide = plate(partial(cvae.guide, xs, ys if proposal == "recognition" else None))
    with torch.no_grad(), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return get_importance_trace("flat", 2, model, guide, (), {})


def check_model(cvae: CVAE, xs: Tensor, ys: Tensor) -> None:
    """Refuse a model that can't be trained and scored, and draw no random numbers from outside.

    Args:
        cvae, xs, ys: the model, and a batch as of :func:`log_weights`.

    Raises:
        ModelError: :func:`check_sites` refuses it, or it tells Pyro of no parameter.
    """
    with own_random_numbers():
        guide = get_trace(cvae.guide, xs, ys)
        model = get_trace(poutine.replay(cvae.model, guide), xs, ys)
    check_sites(model, guide, (len(xs),))
    sites = [*model.nodes.values(), *guide.nodes.values()]
    if not any(site["type"] == "param" for site in sites):
        advice = "call self.register_parameters() in the model"
        raise ModelError(f"nothing would be trained, as Pyro finds no parameter: {advice}")


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


def likelihood_kind(cvae: CVAE, dataset: Dataset) -> str:
    """Name the distribution of what is observed: ``Bernoulli`` only if it is the baseline's."""
    batch = dataset[list(range(min(20, len(dataset))))]  # type: ignore[arg-type]
    xs, ys = batch["input"], batch["output"]
    with own_random_numbers():
        model, _ = _traces(cvae, xs, ys, 1, "prior")
    observed = [site for site in random_sites(model).values() if site["is_observed"]]
    distributions = [site["fn"] for site in observed]
    for number, fn in enumerate(distributions):
        while isinstance(fn, (Independent, MaskedDistribution, ExpandedDistribution)):
            fn = fn.base_dist
        distributions[number] = fn
    kind = " and ".join(type(fn).__name__ for fn in distributions)
    if kind != "Bernoulli":
        return kind
    (site,), logits = observed, distributions[0].logits
    _, truth, scored = scored_pixels(xs, ys)
    if logits.shape[-1:] == truth.shape[-1:]:
        target = truth.expand_as(logits)
        nll = binary_cross_entropy_with_logits(logits, target, reduction="none") * scored
        if torch.allclose(nll.sum(-1), -log_prob(site, site["value"]), rtol=1e-4):
            return kind
    return "Bernoulli of other pixels"


def kl_per_latent(cvae: CVAE, dataset: Dataset, num_particles: int = 1) -> tuple[Tensor, int]:
    """Compute :func:`kl_divergences` of every image.

    Args:
        cvae, dataset: the model, and samples with ``input`` and ``output``.
        num_particles: samples an image, where they are needed.

    Returns:
        Nats, float64 on the CPU, shape (latents, N); and the number of samples that were needed, 0
        where it is exact.
    """
    batch = dataset[[0]]
    with own_random_numbers():
        traces = _traces(cvae, batch["input"], batch["output"], 1, "recognition")
    _, exact = kl_divergences(*traces)
    particles = 1 if exact else num_particles

    def compute(xs: Tensor, ys: Tensor) -> Tensor:
        kl, _ = kl_divergences(*_traces(cvae, xs, ys, particles, "recognition"))
        return kl.mean(0).t()

    return _for_all_images(compute, dataset, particles), 0 if exact else particles


def pixel_counts(dataset: Dataset) -> Tensor:
    """Count the pixels of every image that are scored, and the grey ones among them.

    Returns:
        Float64 on the CPU, shape (2, N).
    """

    def count(xs: Tensor, ys: Tensor) -> Tensor:
        _, truth, scored = scored_pixels(xs, ys)
        every = torch.ones_like(truth, dtype=torch.bool) & scored
        grey = every & (truth > 0) & (truth < 1)
        return torch.stack([every.sum(-1), grey.sum(-1)])

    return _for_all_images(count, dataset)


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


@fast_products()
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
