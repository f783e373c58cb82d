"""What makes a run resume: its checkpoint, and the random numbers of its stages."""

import contextlib
import copy
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from cvae import distributed
from cvae.experiment.code import LAYERS, hash_net, plain_values
from cvae.experiment.models import check_class
from cvae.files import FileError, UsageError, atomic_write, read_tensors
from cvae.train import BaselineTraining, CVAETraining, Training

__all__ = ["OTHER_FOLDER", "Checkpoint", "random_state", "seed_stage", "set_random_state"]

logger = logging.getLogger(__name__)

VERSION = 3  # of what a file holds
OTHER_FOLDER = "choose another --output-dir, or start afresh with --overwrite"


class Checkpoint:
    """One file with all that it takes to resume a run, replaced as a whole with every save.

    Args:
        path: of the file; if it is there, it is read.
        config: what the trained nets depend on, plain values by name.
        code: hashes of the code that trains them, by file.
        keep_trained: keep nets that other code has trained to the end.

    Attributes:
        stages: plain values and tensors by name: the training of each net, and the evaluation.
        other_code: files whose code has changed since it trained what is kept.

    Raises:
        FileError: the file is damaged, or of another version.
        UsageError: it is of a run with another config or code; the message names what differs.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        code: dict[str, str] | None = None,
        keep_trained: bool = False,
    ) -> None:
        self.path, self.config, self.code = path, config, code or {}
        self.stages, self.other_code = dict[str, Any](), list[str]()
        self._keep_trained = keep_trained
        if path.exists():
            with self.reading():
                saved = read_tensors(path)
                if saved["version"] != VERSION:
                    raise ValueError
                self._compare(saved["config"])
                self.stages = saved["stages"]
                for stage in self._trainings:
                    self._compare_code(stage["code"], self.code, self.finished)

    def _compare(self, there: dict[str, Any]) -> None:
        differences = [
            f"{name.replace('_', ' ')} {there.get(name)} there, {self.config.get(name)} here"
            for name in self.config | there
            if there.get(name) != self.config.get(name)
        ]
        if differences:
            advice = f"repeat those, {OTHER_FOLDER}"
            reason = f"{self.path} is of a run with other options ({'; '.join(differences)})"
            raise UsageError(f"{reason}: {advice}")

    @property
    def _trainings(self) -> list[dict[str, Any]]:
        kinds = BaselineTraining, CVAETraining
        return [self.stages[kind.stage] for kind in kinds if kind.stage in self.stages]

    @property
    def finished(self) -> bool:
        """Whether both nets are trained to the end."""
        return len(self._trainings) == 2 and not any("weights" in each for each in self._trainings)

    @property
    def trained_by(self) -> dict[str, str]:
        """The hashes of the code that trained what is there, or else will train it."""
        return self._trainings[-1]["code"] if self._trainings else self.code

    def _compare_code(self, there: dict[str, str], here: dict[str, str], can_keep: bool) -> None:
        differ = [file for file in sorted(there | here) if there.get(file) != here.get(file)]
        if differ and can_keep and self._keep_trained and LAYERS not in differ:
            self.other_code = sorted({*self.other_code, *differ})
        elif differ:
            what = "was trained" if self.finished else "is of an unfinished training"
            advice = OTHER_FOLDER
            if can_keep and not self._keep_trained:
                advice += ", or keep what is trained with --keep-trained"
            changed = f"by other code (changed: {', '.join(differ)})"
            raise UsageError(f"{self.path} {what} {changed}: {advice}")

    def save(self, **stages: Any) -> None:
        """Add or replace stages, of which it keeps copies, and write the file."""
        self.stages |= copy.deepcopy(stages)
        with atomic_write(self.path) as file:
            torch.save({"version": VERSION, "config": self.config, "stages": self.stages}, file)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn any error from reading wrong content into one line that names the file.

        Raises:
            FileError: in place of that.
        """
        try:
            yield
        except UsageError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            advice = "delete it, or start afresh with --overwrite"
            raise FileError(f"{self.path} is damaged, or of another version: {advice}") from error

    def each_epoch(
        self, training: Training, snapshots: list[Tensor] | None = None
    ) -> Iterator[int]:
        """Iterate over a training, which begins after the last epoch that is saved.

        Each epoch is saved and logged after the body of the loop.  An epoch in whose body the loop
        ends, by an error or a ``break``, is not saved, and is repeated when the run is resumed.

        Args:
            training: saved under the name of its stage.
            snapshots: what the body appends after each epoch, which is saved and loaded with it.

        Returns:
            An iterator over the numbers of the epochs, from 1.

        Raises:
            FileError: what is saved does not fit the training.
            OSError: the file can't be written.
            TrainingError: the training's.
            UsageError: what is saved is of a net with other layers or code, or the net is not of
                the class that the config names.
        """
        snapshots = [] if snapshots is None else snapshots
        if isinstance(training, CVAETraining) and "model" in self.config:
            check_class(training.net, self.config["model"])
        net, values, told = hash_net(training.net), plain_values(training.net), set[str]()
        if training.stage in self.stages:
            with self.reading():
                saved = self.stages[training.stage]
                self._compare_code(saved["net"], net, bool(self.other_code))
                training.load_state_dict(saved)
                snapshots[:] = saved["snapshots"]
                if not training.finished:
                    if distributed.rank() < len(saved["random"]):  # else saved by fewer processes
                        set_random_state(saved["random"][distributed.rank()])
                    epochs = len(training.history.epochs)
                    logger.info("%s: resumed after epoch %d", training.title, epochs)
        for epoch in training:
            yield epoch
            random_states = distributed.gather(random_state(training.device))
            if distributed.is_main():
                state = training.state_dict() | {"snapshots": snapshots}
                state |= {"code": self.code, "net": net}
                if not training.finished:
                    state["random"] = random_states
                self.stages.pop("evaluation", None)  # of other weights
                self.save(**{training.stage: state})
            _log_epoch(training)
            if changed := _changed(values, plain_values(training.net)) - told:
                advice = "make it a buffer, or a resumed run begins with its first value"
                what = f"{training.title}, epoch {epoch}, changes {', '.join(sorted(changed))}"
                logger.warning("Warning: %s: %s", what, advice)
                told |= changed


def _changed(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> set[str]:
    """Name the values of a net's modules that are not as before."""
    return {
        f"{module}.{name}".strip(".")
        for module, values in after.items()
        for name, value in values.items()
        if before.get(module, {}).get(name) != value
    }


def _log_epoch(training: Training) -> None:
    """Log the losses of the last epoch, and how long the rest takes at most."""
    history, number = training.history, len(training.history.epochs)
    last = history.epochs[-1]
    terms = " (reconstruction {reconstruction:.2f} + KL {kl:.2f})" if "kl" in last else ""
    line = "training {train:.2f}, validation {val:.2f}" + terms + ", best {best:.2f} nats/image"
    left = tqdm.format_interval((training.num_epochs - number) * history.seconds / number)
    shown = line.format(**last, best=history.best_loss)
    title = f"{training.title}, epoch {number}/{training.num_epochs}"
    logger.info("%s: %s, %.1f s, at most %s left", title, shown, last["seconds"], left)


def seed_stage(seed: int, *stage: object) -> None:
    """Seed the random numbers of a stage of a run, so that it does not depend on those before."""
    words = " ".join(map(str, (seed, *stage)))
    pyro.set_rng_seed(random.Random(words).getrandbits(32))


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the random number generators that :func:`seed_stage` seeds, by name."""
    numpy: Any = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()  # no array, which torch.load refuses
    state = {"cpu": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    setters: dict[str, Callable[[Any], Any]] = {
        "cpu": torch.set_rng_state,
        "python": random.setstate,
        "numpy": np.random.set_state,
    }
    for name, values in state.items():
        (setters.get(name) or torch.get_device_module(name).set_rng_state)(values)
