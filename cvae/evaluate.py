"""The rows of the table with their standard errors, how far to trust them, and samples."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import Predictive
from torch import Tensor
from torch.utils.data import Dataset

from cvae.baseline import missing_pixel_indices
from cvae.estimators import (
    baseline_nll,
    effective_sample_size,
    estimate_cll,
    importance_sampling,
    kl_per_latent,
    monte_carlo,
)
from cvae.model import CVAE

__all__ = ["Estimate", "Evaluation", "draw_samples", "evaluate", "with_error"]

MIN_KL_OF_ACTIVE_LATENT = 0.01  # nats, on average over images


@dataclass(frozen=True)
class Estimate:
    """A mean over images, in nats.

    Attributes:
        mean: of negative CLLs, lower is better, or of what the row says.
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
        """Average values of shape (N,) over images."""
        n = len(per_image)
        standard_error = per_image.std().item() / math.sqrt(n) if n > 1 else None
        return cls(per_image.sum().item() / n, standard_error, n, num_particles)


@dataclass(frozen=True)
class Evaluation:
    """One column of the table: a model evaluated on the images of one split.

    Attributes:
        rows: the table's rows, in order.
        diagnostics: further rows, which tell how far to trust those and how the model uses its
            latent variables: estimates in nats, or plain numbers.
    """

    rows: dict[str, Estimate]
    diagnostics: dict[str, Estimate | float]

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Evaluation":
        """Restore what ``dataclasses.asdict`` made of it."""
        return cls(
            rows={row: Estimate(**entry) for row, entry in plain["rows"].items()},
            diagnostics={
                row: Estimate(**entry) if isinstance(entry, dict) else float(entry)
                for row, entry in plain["diagnostics"].items()
            },
        )


def evaluate(
    cvae: CVAE,
    dataset: Dataset,
    *,
    num_particles: int = 10,
    num_importance_samples: int = 100,
    gather: Callable[[Tensor], Tensor] = lambda per_image: per_image,
) -> Evaluation:
    """Fill one column of the table.

    Args:
        cvae: a trained model.
        dataset: the images to evaluate on.
        num_particles: for ``CVAE (Monte Carlo)``, the negative ELBO.
        num_importance_samples: for prior sampling and importance sampling.
        gather: puts the values, of shape (..., images), of all processes together, where several
            evaluate a shard of the images each.

    Returns:
        In its rows, ``Performance gap`` is baseline minus Monte Carlo, with the standard error of
        the differences image by image; ``KL`` and ``Reconstruction`` add up to Monte Carlo.  A
        latent is active if its KL is over 0.01 nats on average; there is no such row where only
        the KL of all latents together is known.  Below the worst percentile are 1 % of images.
    """

    def with_sample_size(weights: Tensor) -> Tensor:
        return torch.stack([importance_sampling(weights), effective_sample_size(weights)])

    def estimate(particles: int, **options: Any) -> Tensor:
        return gather(estimate_cll(cvae, dataset, num_particles=particles, **options))

    many = num_importance_samples
    baseline = gather(baseline_nll(cvae.baseline_net, dataset))
    elbo = estimate(num_particles, reduction=monte_carlo)
    prior = estimate(many, proposal="prior")
    importance, sample_sizes = estimate(many, reduction=with_sample_size)
    latents = gather(kl_per_latent(cvae, dataset))  # (latents, images)
    kl = latents.sum(0)
    num_active = float((latents.mean(1) > MIN_KL_OF_ACTIVE_LATENT).sum())
    num_missing = len(missing_pixel_indices(dataset[0]["input"][None]))
    return Evaluation(
        rows={
            "NN (baseline)": Estimate.over(baseline, 0),
            "CVAE (Monte Carlo)": Estimate.over(elbo, num_particles),
            "CVAE (prior sampling)": Estimate.over(prior, many),
            "CVAE (importance sampling)": Estimate.over(importance, many),
            "Performance gap": Estimate.over(baseline - elbo, num_particles),
        },
        diagnostics={
            "KL": Estimate.over(kl, 0 if len(latents) > 1 else 1),
            "Reconstruction": Estimate.over(elbo - kl, num_particles),
            "Performance gap per pixel": Estimate.over(
                (baseline - elbo) / num_missing, num_particles
            ),
            "Effective sample size, median": sample_sizes.median().item(),
            "Effective sample size, worst percentile": sample_sizes.quantile(0.01).item(),
            **({"Active latents": num_active} if len(latents) > 1 else {}),
        },
    )


def with_error(value: float, error: float | None) -> str:
    """Format a value with as many decimals as its error has meaning, and at least one."""
    if error is None or not error > 0:
        return f"{value:.1f}"
    decimals = max(1, math.ceil(-math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


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
    predictive = Predictive(cvae.model, None, cvae.guide, num_samples, ("y",), parallel=True)
    with pyro.get_param_store().scope():
        return predictive(xs)["y"].view(num_samples, *xs.shape)
