"""The rows of the table with their standard errors, how far to trust them, and samples to look at."""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import Predictive
from torch import Tensor

from cvae import distributed
from cvae.data import CVAEMNIST, part
from cvae.estimators import (
    baseline_nll,
    effective_sample_size,
    estimate_cll,
    importance_sampling,
    kl_per_latent,
    monte_carlo,
)
from cvae.model import CVAE

__all__ = ["Estimate", "Evaluation", "draw_samples", "evaluate"]

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

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Evaluation":
        """Make it of what ``dataclasses.asdict`` made of it."""
        return cls(
            rows={row: Estimate(**entry) for row, entry in plain["rows"].items()},
            diagnostics={
                row: Estimate(**entry) if isinstance(entry, dict) else float(entry)
                for row, entry in plain["diagnostics"].items()
            },
        )


def evaluate(
    cvae: CVAE, dataset: CVAEMNIST, *, num_particles: int = 10, num_importance_samples: int = 100
) -> Evaluation:
    """Fill one column of the table.

    Args:
        cvae: a trained model.
        dataset: the split to evaluate on; each process of a run has a share of it.
        num_particles: for ``CVAE (Monte Carlo)``, the negative ELBO.
        num_importance_samples: for prior sampling and importance sampling.

    Returns:
        In its rows, ``Performance gap`` is baseline minus Monte Carlo, with the standard error of the
        differences image by image; ``KL`` and ``Reconstruction`` add up to Monte Carlo.  A latent is active
        if its KL is over 0.01 nats on average; the worst percentile is the one that 1 % of images lie below.
    """
    share = part(dataset, distributed.rank(), distributed.world_size())
    baseline = _gathered(baseline_nll(cvae.baseline_net, share))
    elbo = _gathered(estimate_cll(cvae, share, num_particles=num_particles, reduction=monte_carlo))
    prior = _gathered(estimate_cll(cvae, share, num_particles=num_importance_samples, proposal="prior"))
    importance, sample_sizes = _gathered(
        estimate_cll(
            cvae,
            share,
            num_particles=num_importance_samples,
            reduction=lambda weights: torch.stack(
                [importance_sampling(weights), effective_sample_size(weights)]
            ),
        )
    )
    latents = _gathered(kl_per_latent(cvae, share).t()).t()
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
            "Active latents": (latents.mean(0) > ACTIVE).sum().double().item(),
        },
    )


def _gathered(per_image: Tensor) -> Tensor:
    """Put values of shape (..., images) of all processes together."""
    return torch.cat(distributed.gather(per_image), dim=-1)


@torch.no_grad()
def draw_samples(cvae: CVAE, xs: Tensor, num_samples: int) -> Tensor:
    """Draw predictions for images with missing pixels.

    Args:
        cvae: the model.
        xs: shape (batch, h, w).
        num_samples: predictions an image, each from a latent sample of its own.

    Returns:
        Pixel probabilities in [0, 1], shape (num_samples, batch, h, w).
    """
    predictive = Predictive(
        cvae.model, guide=cvae.guide, num_samples=num_samples, return_sites=("y",), parallel=True
    )
    with pyro.get_param_store().scope():
        return predictive(xs)["y"].view(num_samples, *xs.shape)
