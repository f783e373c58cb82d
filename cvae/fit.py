"""One training loop with early stopping, whatever the loss."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader
from tqdm import tqdm

__all__ = ["POLICIES", "EarlyStopping", "History", "Schedule", "TrainingError", "fit"]

POLICIES = ("constant", "one-cycle")


class TrainingError(RuntimeError):
    """Training can't go on."""


@dataclass(frozen=True)
class Schedule:
    """How weights are moved, and for how long.

    Attributes:
        learning_rate: of Adam; the peak, where it varies.
        num_epochs: at most so many passes over the training images.
        early_stop_patience: stop after so many epochs without a better validation loss.
        policy: ``"constant"`` learning rate, or ``"one-cycle"``: up for three tenths of all steps and then
            down to nearly nothing (Smith, Topin (2018), with PyTorch's defaults).
        weight_decay: by which each step shrinks the weights, times the learning rate (Loshchilov, Hutter
            (2019)).
        beta2: of Adam: how slowly it forgets the squares of the gradients, in [0, 1).
        max_grad_norm: scale a longer gradient of the batch's mean loss down to this norm.

    Raises:
        ValueError: no policy has that name.
    """

    learning_rate: float = 1e-3
    num_epochs: int = 50
    early_stop_patience: int = 3
    policy: str = "constant"
    weight_decay: float = 0.0
    beta2: float = 0.999
    max_grad_norm: float = math.inf

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"no policy is called {self.policy!r}: choose from {', '.join(POLICIES)}")

    def start(self, parameters: Iterable[nn.Parameter], steps_per_epoch: int) -> tuple[AdamW, LRScheduler]:
        """Make the optimiser and what sets its learning rate before each step."""
        optimizer = AdamW(
            parameters,
            lr=self.learning_rate,
            betas=(0.9, self.beta2),
            weight_decay=self.weight_decay,
            fused=True,
        )
        if self.policy == "one-cycle":
            steps = self.num_epochs * steps_per_epoch
            return optimizer, OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return optimizer, ConstantLR(optimizer, factor=1)


class EarlyStopping:
    """Remember the best loss so far, and stop after some epochs in a row without a better one.

    Args:
        patience: number of epochs without improvement after which to stop, at least 1.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best_loss = math.inf
        self.epochs_without_improvement = 0

    def improves(self, loss: float) -> bool:
        """Take note of the loss of one more epoch, and tell whether it is the best one yet."""
        if loss < self.best_loss:
            self.best_loss = loss
            self.epochs_without_improvement = 0
            return True
        self.epochs_without_improvement += 1
        return False

    @property
    def should_stop(self) -> bool:
        return self.epochs_without_improvement >= self.patience


@dataclass
class History:
    """What a training run went through; losses in nats per image, lower is better.

    Attributes:
        epochs: a dict for each epoch: ``train`` and ``val`` losses, ``seconds``, and for the CVAE the two
            terms of ``val``, ``reconstruction`` and ``kl``.
        best_epoch: number of the epoch, from 1, whose weights were kept.
        seconds: wall-clock time of the whole run.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return all of it, and the number of epochs run, as plain values."""
        return {"epochs_run": len(self.epochs), **asdict(self)}


def fit(
    net: nn.Module,
    parameters: Iterable[nn.Parameter],
    loss: Callable[[dict[str, Tensor]], Tensor],
    validate: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    dataloaders: dict[str, DataLoader],
    schedule: Schedule,
    label: str,
) -> History:
    """Minimise a loss, and leave a net with the weights of the best epoch.

    Args:
        net: whose state dict is kept and restored.
        parameters: those of it that are trained.
        loss: makes of a batch a scalar to descend on, summed over its images.
        validate: makes of a batch sums over its images by name, among them ``val``, which decides.
        dataloaders: keyed ``"train"`` and ``"val"``.
        schedule: how the parameters are moved, and for how long.
        label: how progress lines begin.

    Raises:
        TrainingError: a loss is not finite.
    """
    history, stopping, start = History(), EarlyStopping(schedule.early_stop_patience), time.perf_counter()
    parameters = list(parameters)
    optimizer, rate = schedule.start(parameters, len(dataloaders["train"]))

    def step(images: int) -> None:
        if schedule.max_grad_norm < math.inf:
            clip_grad_norm_(parameters, schedule.max_grad_norm * images)  # the loss is a sum
        optimizer.step()
        optimizer.zero_grad()
        rate.step()

    best_weights: dict[str, Any] = {}
    for epoch in range(1, schedule.num_epochs + 1):
        epoch_start = time.perf_counter()
        title = f"{label}, epoch {epoch}/{schedule.num_epochs}"
        losses = {"train": _train_epoch(net, loss, step, dataloaders["train"], title)}
        losses |= _validate_epoch(net, validate, dataloaders["val"])
        _check_finite(losses["val"], "validation", title)
        losses["seconds"] = time.perf_counter() - epoch_start
        history.epochs.append(losses)
        if stopping.improves(losses["val"]):
            history.best_epoch = epoch
            best_weights = copy.deepcopy(net.state_dict())
        print(_progress_line(title, losses), flush=True)
        if stopping.should_stop:
            break
    net.load_state_dict(best_weights)
    history.seconds = time.perf_counter() - start
    return history


def _train_epoch(
    net: nn.Module,
    loss: Callable[[Any], Tensor],
    step: Callable[[int], None],
    loader: DataLoader,
    title: str,
) -> float:
    net.train()
    total, images = 0.0, 0
    for batch in tqdm(loader, title, leave=False, disable=None):
        batch_loss = loss(batch)
        batch_loss.backward()
        step(len(batch["input"]))
        _check_finite(batch_loss.item(), "training", title)
        total += batch_loss.item()
        images += len(batch["input"])
    return total / images


@torch.no_grad()
def _validate_epoch(
    net: nn.Module, validate: Callable[[Any], dict[str, Tensor]], loader: DataLoader
) -> dict[str, float]:
    net.eval()
    totals: dict[str, float] = {}
    images = 0
    for batch in loader:
        for name, loss in validate(batch).items():
            totals[name] = totals.get(name, 0.0) + loss.item()
        images += len(batch["input"])
    return {name: total / images for name, total in totals.items()}


def _check_finite(loss: float, split: str, title: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"{title}: the {split} loss is {loss}: try a smaller --learning-rate")


def _progress_line(title: str, losses: dict[str, float]) -> str:
    terms = ""
    if "kl" in losses:
        terms = f" (reconstruction {losses['reconstruction']:.2f} + KL {losses['kl']:.2f})"
    return (
        f"{title}: training {losses['train']:.2f}, validation {losses['val']:.2f}{terms} nats/image, "
        f"{losses['seconds']:.1f} s"
    )
