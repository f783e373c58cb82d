"""Training of the baseline and of the CVAE, as something that one iterates over.

.. code-block:: python

    training = CVAETraining(cvae, dataloaders)
    for epoch in training:
        print(epoch, training.history.epochs[-1]["val"])

Save, log, draw or stop in the body of such a loop; a training does none of these itself.
"""

import copy
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

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
from cvae.config import TrainingConfig
from cvae.data import shift_images
from cvae.estimators import check_model
from cvae.history import EarlyStopping, History, Losses
from cvae.model import CVAE
from cvae.onednn import fast_products
from cvae.optimizer import Optimizer, TrainingError
from cvae.random_numbers import own_random_numbers
from cvae.traces import is_plain, kl_divergences, reconstruction

__all__ = ["BaselineTraining", "CVAETraining", "EarlyStopping", "History", "Phase", "Training"]
__all__ += ["TrainingError", "importance_weighted_elbo", "train_baseline", "train_cvae"]

SHOW_EVERY = 25  # steps: to show a loss, the CPU has to wait for the GPU


class Training(ABC):
    """Training of a net: each iteration runs an epoch and yields its number, from 1.

    It ends after the last epoch, or by early stopping, and leaves the net with its best weights.
    After a ``break`` the net has those of the last epoch; :meth:`load_best` loads the best.

    Args:
        net: trained in place, all parameters that require a gradient.
        dataloaders: keyed ``"train"`` and ``"val"``, of samples with ``input`` and ``output``.
        config: number of epochs, learning rate and the like.
        name: of the run, at the beginning of messages.
        bar: show a progress bar over the batches of an epoch, where there is a terminal.

    Attributes:
        stage: of a run, ``"baseline"`` or ``"CVAE"``.
        title: name of the run, and the stage.
        num_epochs: the most epochs.
        history: losses of the finished epochs.

    Raises:
        TrainingError: while iterating: a loss is not finite.
    """

    stage: str

    def __init__(
        self,
        net: nn.Module,
        dataloaders: Mapping[str, DataLoader],
        config: TrainingConfig,
        name: str = "",
        bar: bool = True,
    ) -> None:
        self.net, self.dataloaders, self.bar = net, dataloaders, bar
        self.title = f"{name}, {self.stage}".strip(" ,")
        self.num_epochs = config.epochs(len(dataloaders["train"]))
        self.history, self.best_weights = History(), net.state_dict()
        self.optimizer = Optimizer(net, config, len(dataloaders["train"]))
        self.device = next(net.parameters()).device
        self.low_precision = config.precision != "float32"
        precision = getattr(torch, config.precision)
        self.autocast = torch.autocast(self.device.type, precision, self.low_precision)
        self._stop_early = EarlyStopping(config.early_stop_patience)
        if distributed.rank():  # noise of its own, for images of its own
            torch.manual_seed(torch.initial_seed() + distributed.rank())

    @abstractmethod
    def steps(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor | float]:
        """Take a gradient step on each batch, and yield the loss before it, summed over images."""

    @abstractmethod
    def validate(self, xs: Tensor, ys: Tensor) -> Losses:
        """Return losses of a batch by name, summed over images; ``val`` decides which is best."""

    @property
    def objective(self) -> int:
        """Number of the loss that the next epoch minimises; only losses of one are compared."""
        return 1

    @property
    def finished(self) -> bool:
        """Whether there is no further epoch."""
        return len(self.history.epochs) >= self.num_epochs or self._stop_early(self.history)

    def __iter__(self) -> Iterator[int]:
        while not self.finished:
            self._run_epoch()
            yield len(self.history.epochs)
        self.load_best()

    def run(self) -> History:
        """Train to the end, and return the losses of every epoch."""
        for _ in self:
            pass
        return self.history

    def load_best(self) -> None:
        """Load the weights of the best epoch, and set the net to evaluation mode."""
        self.net.load_state_dict(self.best_weights)
        self.net.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to resume, by name; after the end, epochs and best weights alone.

        Tensors are the net's own, which further epochs change.
        """
        state: dict[str, Any] = {"epochs": self.history.epochs, "best": self.best_weights}
        if not self.finished:
            state |= {"weights": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned, so that the next epoch is the one after it.

        The random state belongs to the process and is not included; restore it too for the same
        numbers.
        """
        self.history.epochs, self.best_weights = list(state["epochs"]), state["best"]
        self.load_best()
        if not self.finished:
            self.net.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])

    def _run_epoch(self) -> None:
        start, epoch = time.perf_counter(), len(self.history.epochs) + 1
        title = f"{self.title}, epoch {epoch}/{self.num_epochs}"
        order = getattr(self.dataloaders["train"].sampler, "sampler", None)
        if isinstance(order, DistributedSampler):
            order.set_epoch(epoch)
        with fast_products(not self.low_precision):
            losses = self._train(title)
        distributed.share_buffers(self.net)  # what is validated is what is saved
        losses |= self._validate()
        for split in ("train", "val"):
            if not math.isfinite(losses[split]):
                advice = "try a smaller --learning-rate"
                raise TrainingError(f"{title}: the {split} loss is {losses[split]}: {advice}")
        losses |= {"objective": self.objective, "seconds": time.perf_counter() - start}
        self.history.epochs.append(losses)
        if self.history.best_epoch == epoch:
            self.best_weights = copy.deepcopy(self.net.state_dict())

    def _train(self, title: str) -> Losses:
        """Take all steps of an epoch, and return the average of the losses before them."""
        self.net.train()
        images, total = 0, 0.0
        unread: list[Tensor | float] = []
        hidden = None if self.bar else True  # None is: where there is no terminal
        with tqdm(self.dataloaders["train"], title, leave=False, disable=hidden) as bar:
            for loss in self.steps(self._batches(bar)):
                unread.append(loss)
                images += self.optimizer.batch_size // distributed.world_size()
                if not bar.disable and len(unread) == SHOW_EVERY:
                    total = reduce(add, map(float, unread), total)
                    unread.clear()
                    bar.set_postfix(loss=f"{total / images:.1f}", refresh=False)
        # Added up one by one, also where a bar is shown, for the same sum to the last bit.
        total = reduce(add, map(float, unread), total)
        return _average({"train": total, "images": images})

    def _batches(self, bar: tqdm) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield known and missing pixels of each batch, whose size the optimizer has to know."""
        for batch in bar:
            self.optimizer.batch_size = len(batch["input"]) * distributed.world_size()
            yield batch["input"], batch["output"]

    @torch.no_grad()
    @fast_products()
    def _validate(self) -> Losses:
        self.net.eval()
        sums: Counter[str] = Counter()
        for batch in self.dataloaders["val"]:
            sums.update(self.validate(batch["input"], batch["output"]))
            sums["images"] += len(batch["input"])
        return _average(sums)


def _average(sums: Mapping[str, float]) -> Losses:
    """Divide sums over images by their number, for all processes together."""
    gathered = distributed.gather(dict(sums))
    totals = {name: sum(others[name] for others in gathered) for name in sums}
    images = totals.pop("images")
    return {name: total / images for name, total in totals.items()}


class BaselineTraining(Training):
    """Training of the baseline by maximum likelihood.

    Minimises ``MaskedBCELoss`` by computing only the pixels that it scores, the missing ones.
    Arguments are those of :class:`Training`.
    """

    stage = "baseline"
    net: BaselineNet

    def __init__(
        self,
        net: BaselineNet,
        dataloaders: Mapping[str, DataLoader],
        config: TrainingConfig = TrainingConfig(),
        name: str = "",
        bar: bool = True,
    ) -> None:
        super().__init__(net.requires_grad_(True), dataloaders, config, name, bar)

    def steps(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        for xs, ys in batches:
            with self.autocast:
                loss = missing_pixel_nll(self.net, xs, ys).sum()
            loss.backward()
            self.optimizer()
            yield loss.detach()

    def validate(self, xs: Tensor, ys: Tensor) -> Losses:
        return {"val": missing_pixel_nll(self.net, xs, ys).sum().item()}


@dataclass(frozen=True)
class Phase:
    """Epochs of a CVAE's training that are alike.

    Attributes:
        num_epochs: number of epochs, at least 0.
        elbo: Pyro's estimate of the bound, which trains, validates and stops early.
        shift: pixels by which a training image is shifted at most, anew in each step.
    """

    num_epochs: int
    elbo: ELBO
    shift: int = 0


def importance_weighted_elbo(num_samples: int) -> RenyiELBO:
    r"""Return Pyro's estimate of a bound that is tighter with more samples of each image,

    .. math:: -\log \frac{1}{S} \sum_s \frac{p(y|z_s) \, p(z_s|x)}{q(z_s|x,y)},
        \quad z_s \sim q(z|x,y)

    (Burda, Grosse, Salakhutdinov (2016)).  With one sample it is the negative ELBO.
    """
    return RenyiELBO(num_particles=num_samples, vectorize_particles=True, max_plate_nesting=1)


class CVAETraining(Training):
    r"""Training of a CVAE, all but its frozen baseline, by stochastic variational inference.

    Minimises the negative evidence lower bound with one particle,

    .. math:: KL(q(z|x,y) \| p(z|x)) - \log p(y|z), \quad z \sim q(z|x,y)

    (Sohn, Lee, Yan (2015), equation 4), or the bounds of several phases.  Validation and early
    stopping have the bound that is trained.

    Args:
        cvae: trained in place.
        elbo: Pyro's estimate of the bound, by default ``TraceMeanField_ELBO()`` with the KL term in
            closed form.
        phases: bounds and shifts one after the other, such as ``[Phase(32, elbo, shift=1), Phase(8,
            importance_weighted_elbo(5))]``, in place of ``elbo``.  The last one continues to the
            end.

    Other arguments and attributes are those of :class:`Training`.

    Raises:
        ModelError: before the first epoch: the model has no likelihood of each image, or tells Pyro
            of no parameter.
        TrainingError: while iterating: a loss is not finite, or model or guide has a parameter that
            is not the CVAE's: a bare ``pyro.param``.
    """

    stage = "CVAE"
    net: CVAE

    def __init__(
        self,
        cvae: CVAE,
        dataloaders: Mapping[str, DataLoader],
        config: TrainingConfig = TrainingConfig(),
        elbo: ELBO | None = None,
        phases: Sequence[Phase] = (),
        name: str = "",
        bar: bool = True,
    ) -> None:
        cvae.baseline_net.requires_grad_(False)
        super().__init__(cvae, dataloaders, config, name, bar)
        self.phases = phases or [Phase(self.num_epochs, elbo or TraceMeanField_ELBO())]
        # The same functions in all epochs, for a bound that compiles them.
        self._model, self._guide = self.autocast(cvae.model), self.autocast(cvae.guide)
        self._parameters: Any = {"params": {}, "constraints": {}}  # what Pyro's store holds

    @property
    def phase(self) -> Phase:
        """The phase of the next epoch."""
        return self._phase_after(len(self.history.epochs))

    def _phase_after(self, done: int) -> Phase:
        epochs = [phase for phase in self.phases for _ in range(phase.num_epochs)]
        return epochs[done] if done < len(epochs) else self.phases[-1]

    @property
    def objective(self) -> int:
        """Number of the first phase that has the bound of the next epoch."""
        return 1 + [phase.elbo for phase in self.phases].index(self.phase.elbo)

    def __iter__(self) -> Iterator[int]:
        if not self.finished:
            self.net.eval()
            with own_random_numbers():  # a loader draws a seed
                batch = next(iter(self.dataloaders["val"]))
            check_model(self.net, batch["input"][:2], batch["output"][:2])
        yield from super().__iter__()
        ran = [self._phase_after(done) for done in range(len(self.history.epochs))]
        kinds = {(phase.elbo, phase.shift) for phase in self.phases if phase.num_epochs}
        if kinds.difference((phase.elbo, phase.shift) for phase in ran):
            reason = "stopped early, before a phase of another bound or shift"
            warnings.warn(f"{self.title}: {reason}", stacklevel=2)

    def _run_epoch(self) -> None:
        # The store keeps these parameters apart from those of any other model.  Without Pyro's own
        # checks, a loss that is not finite reaches ours.  Both are as before when the epoch ends.
        with pyro.get_param_store().scope(self._parameters), pyro.validation_enabled(False):
            super()._run_epoch()

    def steps(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor | float]:
        phase = self.phase
        svi = SVI(self._model, self._guide, self.optimizer, loss=phase.elbo)
        for xs, ys in batches:
            if phase.shift:
                xs, ys = shift_images(xs, ys, phase.shift)
            yield svi.step(xs, ys)

    def validate(self, xs: Tensor, ys: Tensor) -> Losses:
        model, guide = poutine.trace(self.net.model), poutine.trace(self.net.guide)
        loss = self.phase.elbo.loss(model, guide, xs, ys)
        if isinstance(self.phase.elbo, RenyiELBO):  # which is no sum of two terms
            return {"val": loss}
        divergences, _ = kl_divergences(model.trace, guide.trace)
        kl = divergences.sum(-1).reshape(-1, len(xs)).mean(0).sum().item()
        if is_plain(model.trace, guide.trace):
            return {"val": loss, "reconstruction": loss - kl, "kl": kl}
        # The terms are the model's, also where the bound that trains has a poutine.scale.
        nll = reconstruction(model.trace).reshape(-1, len(xs)).mean(0).sum().item()
        return {"val": loss, "reconstruction": nll, "kl": kl}


def train_baseline(
    net: BaselineNet,
    dataloaders: Mapping[str, DataLoader],
    config: TrainingConfig = TrainingConfig(),
) -> History:
    """Run :class:`BaselineTraining` to its end, and return the losses of every epoch."""
    return BaselineTraining(net, dataloaders, config).run()


def train_cvae(
    cvae: CVAE,
    dataloaders: Mapping[str, DataLoader],
    config: TrainingConfig = TrainingConfig(),
    *,
    elbo: ELBO | None = None,
    phases: Sequence[Phase] = (),
) -> History:
    """Run :class:`CVAETraining` to its end, and return the losses of every epoch."""
    return CVAETraining(cvae, dataloaders, config, elbo, phases).run()
