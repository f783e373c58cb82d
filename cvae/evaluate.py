"""The rows of the table with their standard errors, how far to trust them, and samples."""

import math
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import Predictive
from torch import Tensor
from torch.utils.data import Dataset

from cvae import distributed, estimators
from cvae.baseline import is_missing
from cvae.data import shard
from cvae.files import UsageError
from cvae.model import CVAE
from cvae.onednn import fast_products

__all__ = ["Estimate", "Evaluation", "draw_samples", "evaluate", "with_error"]

MIN_KL_OF_ACTIVE_LATENT = 0.01  # nats, on average over images


@dataclass(frozen=True)
class Estimate:
    """A mean over images, in nats.

    Attributes:
        mean: of negative CLLs, lower is better, or of what the row says.
        standard_error: of that mean, over images; None for a single image.
        num_images, num_particles: images of the split, and latent samples of each, or 0.
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
        diagnostics: how far to trust those, and how the model uses its latent variables.
        likelihood: what the rows are of.
        per_image: what these are means of, by row, and the effective sample size: float32 on the
            CPU, shape (N,), in the order of the data set.
    """

    rows: dict[str, Estimate]
    diagnostics: dict[str, Estimate | float]
    likelihood: str
    per_image: dict[str, Tensor] = field(default_factory=dict, compare=False)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Evaluation":
        """Restore what ``dataclasses.asdict`` made of it."""
        rows = {name: Estimate(**row) for name, row in plain["rows"].items()}
        more = plain["diagnostics"].items()
        diagnostics = {k: Estimate(**v) if isinstance(v, dict) else v for k, v in more}
        return cls(rows, diagnostics, plain["likelihood"], plain["per_image"])

    def summary(self) -> dict[str, Any]:
        """Return all but the values of each image, as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "per_image"}


def evaluate(
    cvae: CVAE, dataset: Dataset, *, num_particles: int = 10, num_importance_samples: int = 100
) -> Evaluation:
    """Fill one column of the table.

    Under ``torchrun`` all processes call it: each takes a shard of the images, and all return the
    same.

    Args:
        cvae, dataset: a trained model, and the images to evaluate it on.
        num_particles: for ``CVAE (Monte Carlo)``, the negative ELBO.
        num_importance_samples: for prior sampling and importance sampling.

    Returns:
        ``Performance gap`` is baseline minus Monte Carlo, with the standard error of the
        differences image by image, if both are of one likelihood; ``KL`` and ``Reconstruction`` add
        up to Monte Carlo.  A latent is active if its KL is over 0.01 nats on average; there is no
        such row where only the KL of all latents together is known.  Below the worst percentile are
        1 % of images.

    Raises:
        ModelError: the model has no likelihood of each image.
        UsageError: the images are masked anew at each access, so that rows would differ in that.
    """
    images = shard(dataset, distributed.rank(), distributed.world_size())
    some = list(range(min(100, len(images))))
    if not torch.equal(*(is_missing(images[some]["input"]) for _ in range(2))):
        advice = "evaluate a split that get_data does not train on, or CVAEMNIST(..., fixed=True)"
        raise UsageError(f"these images have another mask at each access: {advice}")
    gather = distributed.gather_images
    estimate = partial(estimators.estimate_cll, cvae, images)
    baseline = gather(estimators.baseline_nll(cvae.baseline_net, images))
    elbo = gather(estimate(num_particles=num_particles, reduction=estimators.monte_carlo))
    prior = gather(estimate(num_particles=num_importance_samples, proposal="prior"))
    importance, sample_sizes = gather(
        estimate(num_particles=num_importance_samples, reduction=_importance_and_sample_size)
    )
    latents, needed = estimators.kl_per_latent(cvae, images, num_particles)
    latents = gather(latents)  # (latents, images)
    kl, gap = latents.sum(0), baseline - elbo
    num_scored, num_grey = gather(estimators.pixel_counts(images))
    values = {
        "NN (baseline)": (baseline, 0),
        "CVAE (Monte Carlo)": (elbo, num_particles),
        "CVAE (prior sampling)": (prior, num_importance_samples),
        "CVAE (importance sampling)": (importance, num_importance_samples),
    }
    more = {"KL": (kl, needed), "Reconstruction": (elbo - kl, num_particles)}
    kind = estimators.likelihood_kind(cvae, images)
    likelihood = "Bernoulli" + " (grey pixels: cross-entropy)" * bool(num_grey.any())
    if kind == "Bernoulli":
        values["Performance gap"] = gap, num_particles
        more["Performance gap per pixel"] = gap / num_scored.clamp(min=1), num_particles
    else:
        likelihood = f"{likelihood} of NN, {kind} of CVAE"
    rows = {row: Estimate.over(*value) for row, value in values.items()}
    diagnostics: dict[str, Estimate | float] = {k: Estimate.over(*v) for k, v in more.items()}
    per_image = {row: value.float() for row, (value, _) in (values | more).items()}
    per_image["Effective sample size"] = sample_sizes.float()
    diagnostics |= {
        "Effective sample size, median": sample_sizes.median().item(),
        "Effective sample size, worst percentile": sample_sizes.quantile(0.01).item(),
    }
    if len(latents) > 1:
        diagnostics["Active latents"] = float((latents.mean(1) > MIN_KL_OF_ACTIVE_LATENT).sum())
    return Evaluation(rows, diagnostics, likelihood, per_image)


def _importance_and_sample_size(log_w: Tensor) -> Tensor:
    """Reduce log weights of shape (particles, batch) in two ways, shape (2, batch)."""
    return torch.stack(
        [estimators.importance_sampling(log_w), estimators.effective_sample_size(log_w)]
    )


def with_error(value: float, error: float | None) -> str:
    """Format a value with as many decimals as its error has meaning, and at least one."""
    if error is None or not error > 0:
        return f"{value:.1f}"
    decimals = max(1, math.ceil(-math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


@torch.no_grad()
@fast_products()
def draw_samples(cvae: CVAE, xs: Tensor, num_samples: int) -> Tensor:
    """Draw predictions: pixel probabilities in [0, 1], shape (num_samples, batch, h, w).

    In chunks that bound the memory beyond that of the result.

    Args:
        cvae, xs: the model, and images with missing pixels, shape (batch, h, w).
        num_samples: predictions an image, each from a latent sample of its own.
    """
    rows = estimators.ROWS_AT_ONCE
    samples = next(cvae.parameters()).new_empty(num_samples, *xs.shape)
    for some in samples.split(rows):
        predictive = Predictive(cvae.model, None, cvae.guide, len(some), ("y",), parallel=True)
        images = max(1, rows // len(some))
        for chunk, inputs in zip(some.split(images, 1), xs.split(images), strict=True):
            with pyro.get_param_store().scope():
                chunk.copy_(predictive(inputs)["y"].view(chunk.shape))
    return samples
