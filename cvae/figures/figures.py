"""All figures of one number of known quadrants, drawn from the trained model, its images and its training."""

import logging
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cvae.baseline import is_missing
from cvae.data import CVAEMNIST, setting_name
from cvae.evaluate import Evaluation, draw_samples, with_error
from cvae.figures.animation import Animation, encode_gif, encode_mp4
from cvae.figures.curves import TUTORIAL, plot_training, training_table
from cvae.figures.diagram import plot_model
from cvae.figures.samples import plot_diversity, plot_problem, plot_samples
from cvae.figures.sheet import DPI
from cvae.model import CVAE
from cvae.run.settings import Settings
from cvae.storage.files import atomic_write
from cvae.training.history import History
from cvae.training.randomness import seed_stage

__all__ = ["FRAMES_PER_EPOCH", "NUM_AMBIGUOUS", "NUM_ANIMATED", "draw_figures", "wants_animation"]

logger = logging.getLogger(__name__)

NUM_PROBLEM_IMAGES = 4
NUM_AMBIGUOUS = 4  # inputs of the diversity figure
NUM_DIVERSITY_SAMPLES = 500  # an input of the diversity figure, for mean and standard deviation
NUM_SAMPLES_SHOWN = 20  # of these
NUM_ANIMATED = 3  # inputs of the animation: a clear one and two ambiguous ones
FRAMES_PER_EPOCH = 3
ANIMATED_FROM = 30_000  # training images: so many make frames cost less than 3 % of an epoch on a CPU


def wants_animation(settings: Settings, num_training_images: int) -> bool:
    """Tell whether to animate: what the settings say, else where training takes long enough."""
    return num_training_images >= ANIMATED_FROM if settings.animate is None else settings.animate


def draw_figures(
    folder: Path,
    settings: Settings,
    cvae: CVAE,
    shown: CVAEMNIST,
    inputs: list[int],
    evaluation: Evaluation,
    histories: dict[str, History],
    *,
    num_quadrant_inputs: int,
    seed: int,
    splits: str,
    animate: bool = False,
) -> None:
    """Write ``cvae_plot_q{n}.png``, ``diversity_q{n}.png``, ``training_q{n}.png`` and ``training_q{n}.csv``.

    ``problem.png`` and ``model.png`` are the same for every n, and written with the first one.

    Args:
        folder: an existing folder.
        settings: of the run.
        cvae: the trained model.
        shown: the images that figures show.
        inputs: indices into ``shown``, of a clear input and of ambiguous ones.
        evaluation: of the model on ``shown``.
        histories: of ``baseline`` and ``CVAE``.
        num_quadrant_inputs: number of known quadrants, the n of the file names.
        seed: of the run.
        splits: the names of all splits, in words.
        animate: also write ``training_q{n}.gif``, and ``training_q{n}.mp4`` where ffmpeg is found and works.

    Raises:
        OSError: a file can't be written; the one of that name that was there stays whole.
        FileError: the snapshots in the history are of other images.
    """
    n = num_quadrant_inputs
    table = training_table(histories)
    with atomic_write(folder / f"training_q{n}.csv") as file:
        file.write(table.to_csv(index=False, lineterminator="\n").encode())
    _save(folder / f"training_q{n}.png", make_training_figure(table, settings, n, seed, splits))
    _save(folder / f"cvae_plot_q{n}.png", make_samples_figure(cvae, shown, evaluation, settings, n, seed))
    _save(folder / f"diversity_q{n}.png", make_diversity_figure(cvae, shown, inputs, n, seed))
    if n == settings.num_quadrant_inputs[0]:
        _save(folder / "problem.png", plot_problem(_truth_and_known(shown[:NUM_PROBLEM_IMAGES])[0]))
        _save(folder / "model.png", plot_model(settings.generation_input))
    if animate:
        _save_animation(folder / f"training_q{n}", histories["CVAE"], shown, inputs[:NUM_ANIMATED], n)


def make_samples_figure(
    cvae: CVAE, shown: CVAEMNIST, evaluation: Evaluation, settings: Settings, n: int, seed: int
) -> Figure:
    """Draw samples for images that are the same for every number n of known quadrants."""
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))
    batch = shown[order[: settings.num_images]]
    seed_stage(seed, "figure")
    samples = draw_samples(cvae, batch["input"], settings.num_samples)
    nn, monte_carlo = (
        with_error(evaluation.rows[row].mean, evaluation.rows[row].standard_error).replace(" ", "\u00a0")
        for row in ("NN (baseline)", "CVAE (Monte Carlo)")
    )
    title = (
        f"{shown.name}, {len(shown):,} images; {setting_name(n)} known (outlined)\n"
        f"Negative CLL in nats per image, lower is better: NN {nn}; "
        f"CVAE {monte_carlo} (Monte Carlo, {settings.num_particles} particles)"
    )
    return plot_samples(*_truth_and_known(batch), cvae.baseline_predictions(batch["input"]), samples, title)


def make_diversity_figure(cvae: CVAE, shown: CVAEMNIST, inputs: list[int], n: int, seed: int) -> Figure:
    """Draw many samples for the ambiguous inputs."""
    batch = shown[inputs[1:] or inputs]
    seed_stage(seed, "diversity")
    samples = draw_samples(cvae, batch["input"], NUM_DIVERSITY_SAMPLES)
    title = (
        f"{shown.name}, {setting_name(n)} known (outlined): the baseline's one answer, and the CVAE's many "
        f"({NUM_SAMPLES_SHOWN} samples; mean and standard deviation of {NUM_DIVERSITY_SAMPLES})"
    )
    y_hat = cvae.baseline_predictions(batch["input"])
    return plot_diversity(*_truth_and_known(batch), y_hat, samples, title, NUM_SAMPLES_SHOWN)


def make_training_figure(table: pd.DataFrame, settings: Settings, n: int, seed: int, splits: str) -> Figure:
    """Draw the losses of every epoch, beside the tutorial's results where these are of the same images."""
    all_of_mnist = settings.dataset == "mnist" and not (settings.subset or settings.holdout or settings.binarize)
    references = dict(zip(("baseline", "CVAE"), TUTORIAL[n])) if all_of_mnist else None
    title = f"{setting_name(n)} known; {splits}; {settings.description}, seed {seed}"
    return plot_training(table, title, references)


def _truth_and_known(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the whole images, shape (images, h, w), and which pixels are known, shape (h, w)."""
    return batch["original"].squeeze(-3), ~is_missing(batch["input"][0])


def _save(path: Path, figure: Figure) -> None:
    """Write a PNG, the same bytes whenever it is the same figure."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def _save_animation(path: Path, history: History, shown: CVAEMNIST, inputs: list[int], n: int) -> None:
    """Write a GIF, and an MP4 where ffmpeg is found; a warning tells of one that can't be made."""
    losses = [epoch["val"] for epoch in history.epochs]
    title = f"{shown.name}, {setting_name(n)} known (outlined)"
    frames = Animation(losses, history.snapshots, *_truth_and_known(shown[inputs]), title).render()
    encoders = {"gif": encode_gif} | ({"mp4": encode_mp4} if shutil.which("ffmpeg") else {})
    for kind, encode in encoders.items():
        try:
            content = encode(frames)
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("no %s: %s", path.with_suffix(f".{kind}"), error)
            continue
        with atomic_write(path.with_suffix(f".{kind}")) as file:
            file.write(content)
