"""Training of the baseline and of the CVAE, with early stopping."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
import torch.nn as nn
from pyro import poutine
from pyro.infer import ELBO, SVI, TraceMeanField_ELBO
from torch import Tensor
from torch.utils.data import DataLoader

from cvae.baseline import BaselineNet, missing_pixel_nll
from cvae.estimators import kl_divergences
from cvae.model import CVAE
from cvae.storage.checkpoint import Checkpoint
from cvae.training.history import History
from cvae.training.loop import fit
from cvae.training.optimizer import Optimizer
from cvae.training.progress import Progress
from cvae.training.settings import TrainingSettings
from cvae.training.state import TrainingState

__all__ = ["EarlyStopping", "train_baseline", "train_cvae"]

Batch = dict[str, Any]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation loss has not become lower for so many epochs; the best epoch's weights are used.

    Args:
        patience: number of epochs without a lower validation loss after which training stops.
    """

    patience: int

    def __call__(self, history: History) -> bool:
        """Tell whether the best epoch is ``patience`` epochs ago."""
        return len(history.epochs) - history.best_epoch >= self.patience


def train_baseline(
    net: BaselineNet,
    dataloaders: dict[str, DataLoader],
    settings: TrainingSettings = TrainingSettings(),
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> History:
    """Train the baseline by maximum likelihood and leave it with its best weights.

    Minimises ``MaskedBCELoss`` by computing only the pixels that it scores, the missing ones.

    Args:
        net: trained in place, all of its parameters.
        dataloaders: keyed ``"train"`` and ``"val"``, of samples with ``input`` and ``output``.
        settings: number of epochs, learning rate and the like.
        checkpoint: where each epoch is saved, and where an interrupted run is resumed from.
        progress: display of the whole command.

    Returns:
        The losses of every epoch.

    Raises:
        TrainingError: a loss is not finite.
        FileError: the checkpoint does not fit.
        OSError: the checkpoint can't be written.
    """
    optimizer = _make_optimizer(net.requires_grad_(True), settings, dataloaders)

    def step(batch: Batch) -> Tensor:
        with _autocast(settings, net):
            loss = missing_pixel_nll(net, batch["input"], batch["output"]).sum()
        loss.backward()
        optimizer()
        return loss.detach()

    def validate(batch: Batch) -> Batch:
        return {"val": missing_pixel_nll(net, batch["input"], batch["output"]).sum()}

    state = TrainingState(net, optimizer, EarlyStopping(settings.early_stop_patience), settings.num_epochs)
    return fit("baseline", state, step, validate, dataloaders, checkpoint, progress)


def train_cvae(
    cvae: CVAE,
    dataloaders: dict[str, DataLoader],
    settings: TrainingSettings = TrainingSettings(),
    *,
    elbo: ELBO | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    snapshot: Callable[[int], Tensor] | None = None,
) -> History:
    r"""Train all parameters of a CVAE but the frozen baseline's, by stochastic variational inference.

    Minimises the negative evidence lower bound with one particle,

    .. math:: KL(q(z|x,y) \| p(z|x)) - \log p(y|z), \quad z \sim q(z|x,y)

    (Sohn, Lee, Yan (2015), equation 4) and leaves the CVAE with its best weights.  The baseline inside it
    is not changed.

    Args:
        cvae: trained in place.
        dataloaders: as for :func:`train_baseline`; samples hold ``y_hat`` if the baseline's predictions are cached.
        elbo: Pyro's estimate of the bound, by default ``TraceMeanField_ELBO()`` with the KL term in closed form.
            Validation and early stopping have the same estimate.
        snapshot: called with the number of each epoch after it; what it returns is saved in the history.

    Raises:
        TrainingError: model or guide has a parameter that the CVAE does not own, such as a bare ``pyro.param``.

    Other arguments, results and errors are those of :func:`train_baseline`.
    """
    elbo = elbo or TraceMeanField_ELBO()
    cvae.baseline_net.requires_grad_(False)
    optimizer = _make_optimizer(cvae, settings, dataloaders)
    model, guide = (_autocast(settings, cvae)(each) for each in (cvae.model, cvae.guide))
    svi = SVI(model, guide, optimizer, loss=elbo)

    def step(batch: Batch) -> float:
        return svi.step(*_inputs(batch))

    def validate(batch: Batch) -> Batch:
        traced_model, traced_guide = poutine.trace(cvae.model), poutine.trace(cvae.guide)
        loss = elbo.loss(traced_model, traced_guide, *_inputs(batch))
        kl_per_particle = kl_divergences(traced_model.trace, traced_guide.trace).sum(-1)
        kl = kl_per_particle.reshape(-1, len(batch["input"])).mean(0).sum().item()
        return {"val": loss, "reconstruction": loss - kl, "kl": kl}

    state = TrainingState(cvae, optimizer, EarlyStopping(settings.early_stop_patience), settings.num_epochs)
    # The scope keeps these parameters apart from those of any other model.  Without Pyro's own checks a
    # loss that is not finite reaches ours.
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        return fit("CVAE", state, step, validate, dataloaders, checkpoint, progress, snapshot)


def _make_optimizer(
    net: nn.Module, settings: TrainingSettings, dataloaders: dict[str, DataLoader]
) -> Optimizer:
    """Make the optimizer of all parameters that are not frozen."""
    parameters = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    return Optimizer(parameters, settings, steps_per_epoch=len(dataloaders["train"]))


def _inputs(batch: Batch) -> list[Tensor]:
    """Return the arguments of model and guide: the baseline's predictions only if they are cached."""
    return [batch[name] for name in ("input", "output", "y_hat") if name in batch]


def _autocast(settings: TrainingSettings, net: nn.Module) -> torch.autocast:
    """Compute matrix products in the precision of the settings."""
    device = next(net.parameters()).device.type
    return torch.autocast(device, getattr(torch, settings.precision), enabled=settings.precision != "float32")
