"""Training of the baseline and of the CVAE: Pyro's SVI, early stopping, and the loop of both."""

import copy
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import pyro
import torch
import torch.nn as nn
from pyro import poutine
from pyro.infer import ELBO, SVI, RenyiELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

from cvae import distributed
from cvae.baseline import BaselineNet, missing_pixel_nll
from cvae.checkpoint import Checkpoint, random_state, set_random_state
from cvae.config import TrainingConfig
from cvae.console import epoch_bar
from cvae.data import shift_images
from cvae.estimators import kl_divergences
from cvae.model import CVAE
from cvae.optimizer import Optimizer, TrainingError

__all__ = ["EarlyStopping", "History", "TrainingError", "importance_weighted_elbo"]
__all__ += ["train_baseline", "train_cvae"]

logger = logging.getLogger(__name__)

Losses = dict[str, float]

SHOW_EVERY = 25  # steps: to show a loss, the CPU has to wait for the GPU


@dataclass
class History:
    """Losses of every epoch in nats per image, lower is better.

    Attributes:
        epochs: a dict for each epoch: ``train`` and ``val`` losses, ``seconds``, and for the CVAE
            the two terms of ``val``, ``reconstruction`` and ``kl``, where it is an ELBO.
        snapshots: what the net predicted after each epoch, where that was asked for.
        first_phase: number of epochs before those whose losses are another bound.  Losses are
            compared within a phase.
    """

    epochs: list[Losses] = field(default_factory=list)
    snapshots: list[Tensor] = field(default_factory=list)
    first_phase: int = 0

    @property
    def best_epoch(self) -> int:
        """Number, from 1, of the last phase's first epoch with its lowest validation loss, or 0."""
        before = self.first_phase if len(self.epochs) > self.first_phase else 0
        losses = [epoch["val"] for epoch in self.epochs[before:]]
        return before + 1 + losses.index(min(losses)) if losses else 0

    @property
    def best_loss(self) -> float:
        """The validation loss of the best epoch, nats per image."""
        return self.epochs[self.best_epoch - 1]["val"]

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(epoch["seconds"] for epoch in self.epochs)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation loss has not become lower for so many epochs.

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
    training: TrainingConfig = TrainingConfig(),
    *,
    checkpoint: Checkpoint | None = None,
    name: str = "",
) -> History:
    """Train the baseline by maximum likelihood and leave it with its best weights.

    Minimises ``MaskedBCELoss`` by computing only the pixels that it scores, the missing ones.

    Args:
        net: trained in place, all of its parameters.
        dataloaders: keyed ``"train"`` and ``"val"``, of samples with ``input`` and ``output``.
        training: number of epochs, learning rate and the like; its last phase is for the CVAE.
        checkpoint: where each epoch is saved, and where an interrupted run is resumed from.
        name: of the run, at the beginning of its log lines.

    Returns:
        The losses of every epoch.

    Raises:
        TrainingError: a loss is not finite.
        FileError: the checkpoint does not fit.
        OSError: the checkpoint can't be written.
    """
    optimizer = Optimizer(net.requires_grad_(True), training, len(dataloaders["train"]))

    def step(xs: Tensor, ys: Tensor) -> Tensor:
        with _autocast(net, training):
            loss = missing_pixel_nll(net, xs, ys).sum()
        loss.backward()
        optimizer()
        return loss.detach()

    def validate(xs: Tensor, ys: Tensor) -> Losses:
        return {"val": missing_pixel_nll(net, xs, ys).sum().item()}

    data = dataloaders, training, checkpoint
    return _fit("baseline", name, net, optimizer, step, validate, History(), *data)


def importance_weighted_elbo(num_samples: int) -> RenyiELBO:
    r"""Return Pyro's estimate of a bound that is tighter with more samples of each image,

    .. math:: -\log \frac{1}{S} \sum_s \frac{p(y|z_s) \, p(z_s|x)}{q(z_s|x,y)},
        \quad z_s \sim q(z|x,y)

    (Burda, Grosse, Salakhutdinov (2016)).  With one sample it is the negative ELBO.
    """
    return RenyiELBO(num_particles=num_samples, vectorize_particles=True, max_plate_nesting=1)


def train_cvae(
    cvae: CVAE,
    dataloaders: dict[str, DataLoader],
    training: TrainingConfig = TrainingConfig(),
    *,
    elbo: ELBO | None = None,
    checkpoint: Checkpoint | None = None,
    name: str = "",
    snapshot: Callable[[int], Tensor] | None = None,
) -> History:
    r"""Train a CVAE, all but its frozen baseline, by stochastic variational inference.

    Minimises the negative evidence lower bound with one particle,

    .. math:: KL(q(z|x,y) \| p(z|x)) - \log p(y|z), \quad z \sim q(z|x,y)

    (Sohn, Lee, Yan (2015), equation 4) and leaves the CVAE with its best weights.  In the last
    phase of ``training``, images are no longer shifted, and with several ``bound_samples`` the
    bound is :func:`importance_weighted_elbo`.  Validation and early stopping have the bound that is
    trained.

    Args:
        cvae: trained in place.
        elbo: Pyro's estimate of the bound, by default ``TraceMeanField_ELBO()`` with the KL term in
            closed form; up to the last phase, if that has several ``bound_samples``.
        snapshot: called with the number of each epoch after it; the history holds its results.

    Other arguments, results and errors are those of :func:`train_baseline`.

    Raises:
        TrainingError: model or guide has a parameter that is not the CVAE's: a bare ``pyro.param``.
    """
    elbo = elbo or TraceMeanField_ELBO()
    cvae.baseline_net.requires_grad_(False)
    optimizer = Optimizer(cvae, training, len(dataloaders["train"]))
    autocast = _autocast(cvae, training)
    model, guide = autocast(cvae.model), autocast(cvae.guide)
    samples = training.bound_samples
    bounds = elbo, importance_weighted_elbo(samples) if samples > 1 else elbo
    svis = [SVI(model, guide, optimizer, loss=bound) for bound in bounds]
    switch = training.first_phase(len(dataloaders["train"]))
    history = History(first_phase=switch if samples > 1 else 0)

    def in_last_phase() -> bool:
        return len(history.epochs) >= switch

    def step(xs: Tensor, ys: Tensor) -> float:
        if training.shift and not in_last_phase():
            xs, ys = shift_images(xs, ys, training.shift)
        return svis[in_last_phase()].step(xs, ys)

    def validate(xs: Tensor, ys: Tensor) -> Losses:
        bound = bounds[in_last_phase()]
        model, guide = poutine.trace(cvae.model), poutine.trace(cvae.guide)
        loss = bound.loss(model, guide, xs, ys)
        if isinstance(bound, RenyiELBO):  # which is no sum of two terms
            return {"val": loss}
        divergences = kl_divergences(model.trace, guide.trace).sum(-1)
        kl = divergences.reshape(-1, len(xs)).mean(0).sum().item()
        return {"val": loss, "reconstruction": loss - kl, "kl": kl}

    # The scope keeps these parameters apart from those of any other model.  Without Pyro's own
    # checks, a loss that is not finite reaches ours.
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        data = dataloaders, training, checkpoint
        return _fit("CVAE", name, cvae, optimizer, step, validate, history, *data, snapshot)


def _autocast(net: nn.Module, training: TrainingConfig) -> torch.autocast:
    """Compute matrix products in the precision of the config."""
    device, precision = next(net.parameters()).device.type, getattr(torch, training.precision)
    return torch.autocast(device, precision, enabled=training.precision != "float32")


def _fit(
    part: str,
    name: str,
    net: nn.Module,
    optimizer: Optimizer,
    step: Callable[[Tensor, Tensor], Tensor | float],
    validate: Callable[[Tensor, Tensor], Losses],
    history: History,
    dataloaders: dict[str, DataLoader],
    training: TrainingConfig,
    checkpoint: Checkpoint | None,
    snapshot: Callable[[int], Tensor] | None = None,
) -> History:
    """Train a net until its last epoch or early stopping, and leave it with its best weights.

    ``step`` takes a gradient step on a batch and returns the loss before it, ``validate`` returns
    losses of a batch by name, of which ``val`` decides; all are sums over images.  The history,
    which is empty, holds only finished epochs at any time.
    """
    run, num_epochs = f"{name}, {part}".strip(" ,"), training.epochs(len(dataloaders["train"]))
    best_weights = net.state_dict()
    stop_early = EarlyStopping(training.early_stop_patience)
    device = next(net.parameters()).device
    if distributed.rank():  # noise of its own, for images of its own
        torch.manual_seed(torch.initial_seed() + distributed.rank())

    def finished() -> bool:
        return len(history.epochs) >= num_epochs or stop_early(history)

    if checkpoint is not None and part in checkpoint.parts:
        with checkpoint.reading():
            saved = checkpoint.parts[part]
            history.epochs, history.snapshots = saved["epochs"], saved["snapshots"]
            best_weights = saved["best"]
            net.load_state_dict(best_weights)
            if not finished():
                net.load_state_dict(saved["weights"])
                optimizer.load_state_dict(saved["optimizer"])
                if distributed.rank() < len(saved["random"]):  # else saved by fewer processes
                    set_random_state(saved["random"][distributed.rank()])
                logger.info("%s: resumed after epoch %d", run, len(history.epochs))

    while not finished():
        start, epoch = time.perf_counter(), len(history.epochs) + 1
        title = f"{run}, epoch {epoch}/{num_epochs}"
        order = getattr(dataloaders["train"].sampler, "sampler", None)
        if isinstance(order, DistributedSampler):
            order.set_epoch(epoch)

        net.train()
        total, unread, images = 0.0, [], 0
        with epoch_bar(dataloaders["train"], title) as bar:
            for batch in bar:
                optimizer.batch_size = len(batch["input"]) * distributed.world_size()
                unread.append(step(batch["input"], batch["output"]))
                images += len(batch["input"])
                if not bar.disable and len(unread) == SHOW_EVERY:
                    total = reduce(add, map(float, unread), total)
                    unread.clear()
                    bar.set_postfix(loss=f"{total / images:.1f}", refresh=False)
        # Added up one by one, also where a bar is shown, for the same sum to the last bit.
        total = reduce(add, map(float, unread), total)
        averages = _average({"train": total, "images": images})

        net.eval()
        sums: Counter[str] = Counter()
        with torch.no_grad():
            for batch in dataloaders["val"]:
                sums.update(validate(batch["input"], batch["output"]))
                sums["images"] += len(batch["input"])
        averages |= _average(sums)

        for split in ("train", "val"):
            if not math.isfinite(averages[split]):
                advice = "try a smaller --learning-rate"
                raise TrainingError(f"{title}: the {split} loss is {averages[split]}: {advice}")
        history.epochs.append(averages | {"seconds": time.perf_counter() - start})
        if snapshot is not None:
            history.snapshots.append(snapshot(epoch))
        if history.best_epoch == epoch:
            best_weights = copy.deepcopy(net.state_dict())
        random_states = distributed.gather(random_state(device))
        if checkpoint is not None and distributed.is_main():
            saved = {"epochs": history.epochs, "snapshots": history.snapshots, "best": best_weights}
            if not finished():
                state = {"weights": net.state_dict(), "optimizer": optimizer.state_dict()}
                saved |= copy.deepcopy(state) | {"random": random_states}
            checkpoint.save(**{part: saved})
        _log_epoch(title, history, num_epochs)

    net.load_state_dict(best_weights)
    net.eval()
    return history


def _average(sums: Mapping[str, float]) -> Losses:
    """Divide sums over images by their number, for all processes together."""
    gathered = distributed.gather(dict(sums))
    totals = {name: sum(each[name] for each in gathered) for name in sums}
    images = totals.pop("images")
    return {name: total / images for name, total in totals.items()}


def _log_epoch(title: str, history: History, num_epochs: int) -> None:
    """Log the losses of the last epoch, and how long the rest takes at most."""
    last, number = history.epochs[-1], len(history.epochs)
    terms = " (reconstruction {reconstruction:.2f} + KL {kl:.2f})" if "kl" in last else ""
    line = "training {train:.2f}, validation {val:.2f}" + terms + ", best {best:.2f} nats/image"
    left = tqdm.format_interval((num_epochs - number) * history.seconds / number)
    shown = line.format(**last, best=history.best_loss)
    logger.info("%s: %s, %.1f s, at most %s left", title, shown, last["seconds"], left)
