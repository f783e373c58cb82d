"""Estimates of the conditional log-likelihood from one set of log weights, and samples to look at."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import Predictive
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from cvae.baseline import BaselineNet, MaskedBCELoss
from cvae.data import CVAEMNIST, make_loader
from cvae.model import CVAE

__all__ = [
    "Estimate",
    "baseline_nll",
    "draw_samples",
    "estimate_cll",
    "evaluate",
    "importance_sampling",
    "log_weights",
    "monte_carlo",
]

ROWS_AT_ONCE = 2048  # particles x images decoded together: few MB, which caches hold


@dataclass(frozen=True)
class Estimate:
    """A mean over images, or a difference of two, in nats per image.

    Attributes:
        nll: negative conditional log-likelihood, lower is better (for the performance gap: baseline minus
            CVAE, higher is better).
        standard_error: of that mean, over images; None for a single image.
        num_images: images of the split.
        num_particles: latent samples an image; 0 for the baseline, which has none.
    """

    nll: float
    standard_error: float | None
    num_images: int
    num_particles: int

    @classmethod
    def over(cls, per_image: Tensor, num_particles: int) -> "Estimate":
        """Sum values of shape (N,) and divide once."""
        n = len(per_image)
        standard_error = per_image.std().item() / math.sqrt(n) if n > 1 else None
        return cls(per_image.sum().item() / n, standard_error, n, num_particles)


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
        reduction: :func:`monte_carlo` or :func:`importance_sampling`.

    Returns:
        Shape (N,), float64 on the CPU, in nats.
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
    return torch.cat(per_image).double()


@torch.no_grad()
def baseline_nll(net: BaselineNet, dataset: CVAEMNIST) -> Tensor:
    """Compute the baseline's negative CLL of every image: shape (N,), float64 on the CPU, in nats."""
    loss = MaskedBCELoss(from_logits=True)
    batches = make_loader(dataset, ROWS_AT_ONCE)
    return torch.cat([loss.per_image(net.logits(b["input"]), b["output"]).cpu() for b in batches]).double()


def evaluate(
    cvae: CVAE, dataset: CVAEMNIST, *, num_particles: int = 10, num_importance_samples: int = 100
) -> dict[str, Estimate]:
    """Fill one column of the table.

    Args:
        cvae: a trained model.
        dataset: the split to evaluate on.
        num_particles: for ``CVAE (Monte Carlo)``, the negative ELBO.
        num_importance_samples: for prior sampling and importance sampling.

    Returns:
        The table's rows, in order.  ``Performance gap`` is baseline minus Monte Carlo, with the standard
        error of the differences image by image.
    """
    baseline = baseline_nll(cvae.baseline_net, dataset)
    elbo = estimate_cll(cvae, dataset, num_particles=num_particles, reduction=monte_carlo)
    prior = estimate_cll(cvae, dataset, num_particles=num_importance_samples, proposal="prior")
    importance = estimate_cll(cvae, dataset, num_particles=num_importance_samples)
    return {
        "NN (baseline)": Estimate.over(baseline, 0),
        "CVAE (Monte Carlo)": Estimate.over(elbo, num_particles),
        "CVAE (prior sampling)": Estimate.over(prior, num_importance_samples),
        "CVAE (importance sampling)": Estimate.over(importance, num_importance_samples),
        "Performance gap": Estimate.over(baseline - elbo, num_particles),
    }


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
