"""The settings of a run, typed: what the command line is turned into.  Imports nothing that takes time."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cvae.images.catalogue import VAL_FRACTION
from cvae.training.settings import TrainingSettings

__all__ = ["Experiment", "MAX_FACTOR", "MIN_STEPS", "Recipe", "RECIPES", "Settings"]


@dataclass(frozen=True)
class Recipe(TrainingSettings):
    """What ``--recipe`` chooses; the defaults are the tutorial's."""

    baseline_epochs: int | None = None
    batch_size: int = 128
    activation: str = "relu"
    generation_input: str = "z"
    num_importance_samples: int = 100


BEST = Recipe(
    num_epochs=30,
    baseline_epochs=12,
    early_stop_patience=30,
    learning_rate=3e-3,
    schedule="one-cycle",
    weight_decay=0.1,
    beta2=0.99,
    max_grad_norm=40.0,
    batch_size=256,
    activation="silu",
    generation_input="xz",
    num_importance_samples=1000,
)
QUICK = replace(
    BEST, num_epochs=3, baseline_epochs=12, learning_rate=4e-3, batch_size=128, num_importance_samples=20
)
# A small data set has few batches an epoch: there, recipes other than the tutorial's have more epochs, at most
# MAX_FACTOR times as many, until they come to so many gradient steps.
MIN_STEPS = {"baseline_epochs": 1900, "num_epochs": 640}
MAX_FACTOR = 20
RECIPES = {"tutorial": Recipe(), "quick": QUICK, "best": BEST}  # how they were found: recipes.md beside this file


@dataclass(frozen=True)
class Experiment(Recipe):
    """All that the results depend on, besides the seed and the number of known quadrants."""

    recipe: str = "tutorial"
    dataset: str = "auto"
    val_fraction: float = VAL_FRACTION
    subset: int | None = None
    holdout: int = 0
    binarize: bool = False
    elbo: str = "mean-field"
    num_particles: int = 10


@dataclass(frozen=True)
class Settings(Experiment):
    """An experiment, its seeds and numbers of known quadrants, where its files are, and what is shown.

    Attributes are named after the flags of the command line, whose help explains them.
    """

    num_quadrant_inputs: tuple[int, ...] = (1, 2, 3)
    seeds: tuple[int, ...] = (0,)
    data_dir: Path = Path("data")
    output_dir: Path = Path("results")
    overwrite: bool = False
    diagnostics: bool = False
    num_images: int = 10
    num_samples: int = 10
    animate: bool | None = None
    device: str = "auto"
    jobs: int | None = 1  # None: as many as there are processors
    chosen_epochs: tuple[str, ...] = ()  # which of the keys of MIN_STEPS the command line gives itself
    quiet: bool = False
    debug: bool = False

    @property
    def description(self) -> str:
        """The recipe and the flags that differ from it and from the defaults, as they stand on the command line.

        The data set is left out: tables and figures name the images of each split.
        """
        usual = Experiment(**vars(RECIPES[self.recipe]), recipe=self.recipe, dataset=self.dataset)
        changed = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in vars(self).items()
            if getattr(usual, name, value) != value
        ]
        return f"recipe {self.recipe}" + (f" with {' '.join(changed)}" if changed else "")

    def with_enough_steps(self, num_images: int) -> "Settings":
        """Multiply the epochs of a recipe for so few training images that it would take too few steps.

        Epochs that the command line gives, and those of the tutorial, stay as they are.
        """
        steps = math.ceil(num_images / self.batch_size)
        usual = {name: getattr(self, name) for name in MIN_STEPS if name not in self.chosen_epochs}
        if self.recipe == "tutorial":
            return self
        wanted = {name: min(MAX_FACTOR * usual[name], math.ceil(MIN_STEPS[name] / steps)) for name in usual}
        return replace(self, **{name: max(usual[name], wanted[name]) for name in usual})

    @property
    def baseline(self) -> TrainingSettings:
        """How the baseline is trained: with epochs of its own, and without clipping."""
        return replace(self, num_epochs=self.baseline_epochs or self.num_epochs, max_grad_norm=math.inf)

    @property
    def several_seeds(self) -> bool:
        """Whether each seed has a folder of its own."""
        return len(self.seeds) > 1

    def runs(self) -> Iterator[tuple[int, int]]:
        """Return each seed with each number of known quadrants."""
        return itertools.product(self.seeds, self.num_quadrant_inputs)

    def folder(self, seed: int) -> Path:
        """Return the folder that the files of a seed are written to."""
        return self.output_dir / f"seed_{seed}" if self.several_seeds else self.output_dir

    def data_options(self) -> dict[str, Any]:
        """Return the keyword arguments of :func:`cvae.data.get_data` that say which images to use."""
        names = ("dataset", "data_dir", "val_fraction", "subset", "holdout", "binarize")
        return {name: getattr(self, name) for name in names}

    def training_options(self) -> dict[str, Any]:
        """Return all that the trained nets depend on, by name: the experiment, less what only the evaluation does."""
        names = (field.name for field in fields(Experiment))
        return {name: getattr(self, name) for name in names if name not in self.evaluation_options()}

    def evaluation_options(self) -> dict[str, int]:
        """Return the keyword arguments of :func:`cvae.evaluate.evaluate` that say how many samples to draw."""
        return {"num_particles": self.num_particles, "num_importance_samples": self.num_importance_samples}
