"""What the training loop minimises for the baseline and for the CVAE."""

from collections.abc import Callable

import pyro
import torch.nn as nn
import torch.nn.functional as F
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.enum import get_importance_trace
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader

from cvae.baseline import BaselineNet, missing_pixels
from cvae.checkpoint import Stage
from cvae.fit import fit
from cvae.model import CVAE
from cvae.progress import History
from cvae.reporter import Reporter
from cvae.schedule import Schedule

__all__ = ["ELBOS", "train_baseline", "train_cvae"]

ELBOS = {"mean-field": TraceMeanField_ELBO, "trace": Trace_ELBO}


def train_baseline(
    net: BaselineNet,
    dataloaders: dict[str, DataLoader],
    schedule: Schedule = Schedule(),
    *,
    reporter: Reporter = Reporter("baseline", "baseline"),
    stage: Stage | None = None,
) -> History:
    """Fit the baseline by maximum likelihood and leave it with its best weights.

    Args:
        net: trained in place.
        dataloaders: keyed ``"train"`` and ``"val"``, of samples with ``input`` and ``output``.
        schedule: how its weights are moved, and for how long.
        reporter: says how it goes.
        stage: where each epoch is put away, and where a run that was interrupted is taken up.

    Raises:
        TrainingError: a loss is not finite.
        FileError: what is to be taken up does not fit.
        OSError: an epoch can't be put away.
    """
    missing = missing_pixels(dataloaders["train"].dataset[0]["input"][None])

    def loss(batch: dict[str, Tensor]) -> Tensor:
        target = batch["output"].flatten(1).index_select(1, missing)
        return F.binary_cross_entropy_with_logits(net.logits(batch["input"], missing), target, reduction="sum")

    def validate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"val": loss(batch)}

    return fit(net, loss, validate, dataloaders, schedule, reporter, stage)


def train_cvae(
    cvae: CVAE,
    dataloaders: dict[str, DataLoader],
    schedule: Schedule = Schedule(),
    *,
    elbo: str = "mean-field",
    reporter: Reporter = Reporter("CVAE", "CVAE"),
    stage: Stage | None = None,
    snapshot: Callable[[int], Tensor] | None = None,
) -> History:
    r"""Fit prior, recognition and generation networks by stochastic variational inference.

    Minimises the negative evidence lower bound with one particle,

    .. math:: KL(q(z|x,y) \| p(z|x)) - \log p(y|z), \quad z \sim q(z|x,y)

    (Sohn, Lee, Yan (2015), equation 4) and leaves the CVAE with its best weights.  The baseline inside it
    stays as it is.

    Args:
        cvae: trained in place.
        dataloaders: keyed ``"train"`` and ``"val"``, of samples with ``input``, ``output`` and, where it
            has been computed beforehand, ``guess``.
        schedule: how their weights are moved, and for how long.
        elbo: ``"mean-field"`` for the KL term in closed form, ``"trace"`` to sample it too.  Validation
            always has it in closed form.
        reporter: says how it goes.
        stage: where each epoch is put away, and where a run that was interrupted is taken up.
        snapshot: makes of the number of an epoch, after it, what the history is to keep of the CVAE.

    Raises:
        TrainingError: a loss is not finite.
        FileError: what is to be taken up does not fit.
        OSError: an epoch can't be put away.
    """

    differentiable_loss = ELBOS[elbo]().differentiable_loss
    trained = nn.ModuleList([cvae.prior_net, cvae.recognition_net, cvae.generation_net])

    def loss(batch: dict[str, Tensor]) -> Tensor:
        return differentiable_loss(
            cvae.model, cvae.guide, batch["input"], batch["output"], batch.get("guess")
        )

    def validate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        reconstruction, kl = _elbo_terms(cvae, batch)
        return {"val": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    # The scope keeps these parameters apart from those of any other model.  Without Pyro's own checks a
    # loss that is not finite reaches ours.
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return fit(trained, loss, validate, dataloaders, schedule, reporter, stage, snapshot)


def _elbo_terms(cvae: CVAE, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL terms of the negative ELBO, summed over a batch, in nats."""
    args = (batch["input"], batch["output"], batch.get("guess"))
    model, guide = get_importance_trace("flat", 1, cvae.model, cvae.guide, args, {})
    kl = kl_divergence(guide.nodes["z"]["fn"], model.nodes["z"]["fn"])
    return -model.nodes["y"]["log_prob_sum"], kl.sum()
