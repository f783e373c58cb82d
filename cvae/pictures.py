"""The figures of one setting, from a trained model, its images and how it was trained."""

import argparse
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.figure import Figure

from cvae.animation import Animation
from cvae.curves import TUTORIAL, plot_training
from cvae.data import CVAEMNIST, MaskImages
from cvae.diagram import plot_model
from cvae.evaluate import Evaluation, draw_samples
from cvae.model import CVAE
from cvae.plot import plot_diversity, plot_problem, plot_samples
from cvae.progress import History
from cvae.recipes import describe
from cvae.report import setting_name, with_error
from cvae.runtime import seed_stage

__all__ = ["Pictures"]

SHOWN = 20  # samples an image of the diversity figure
DRAWN = 500  # of which its means and standard deviations are
PROBLEMS = 4  # images of the problem


@dataclass(frozen=True)
class Pictures:
    """What the figures of a setting show.

    Attributes:
        args: the command line.
        num_quadrant_inputs: number of known quadrants.
        seed: of the run.
        images: where inputs are taken from.
        chosen: places in it of a clear input and of ambiguous ones.
        splits: the names of all splits, in words.
    """

    args: argparse.Namespace
    num_quadrant_inputs: int
    seed: int
    images: CVAEMNIST
    chosen: list[int]
    splits: str

    def problem(self) -> Figure:
        """Draw what is given and what is not, for every setting."""
        truth = self.images.batch(range(min(PROBLEMS, len(self.images))))["original"]
        known = {setting_name(n): MaskImages(n)({"original": truth})["input"][0] >= 0 for n in (1, 2, 3)}
        return plot_problem(truth.squeeze(-3), known)

    def model(self) -> Figure:
        """Draw the networks and variables."""
        return plot_model(self.args.generation_input)

    def samples(self, cvae: CVAE, evaluation: Evaluation) -> Figure:
        """Draw samples for images that are the same whatever the setting."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.seed))
        batch = self.images.batch(order[: self.args.num_images])
        seed_stage(self.seed, "figure")
        cll = {row: with_error(x.mean, x.standard_error) for row, x in evaluation.rows.items()}
        return plot_samples(
            batch["input"],
            batch["original"].squeeze(-3),
            cvae.guess(batch["input"]),
            draw_samples(cvae, batch["input"], self.args.num_samples),
            title=f"{self._where()}\nNegative CLL of {len(self.images):,} images, nats per image, lower is better: NN "
            f"{cll['NN (baseline)']}, CVAE (Monte Carlo, {self.args.num_particles} particles) "
            f"{cll['CVAE (Monte Carlo)']}",
        )

    def diversity(self, cvae: CVAE) -> Figure:
        """Draw many samples for the ambiguous inputs."""
        batch = self.images.batch(self.chosen[1:] or self.chosen)
        seed_stage(self.seed, "diversity")
        return plot_diversity(
            batch["input"],
            batch["original"].squeeze(-3),
            cvae.guess(batch["input"]),
            draw_samples(cvae, batch["input"], DRAWN),
            title=f"{self._where()}: the baseline's one answer, and the CVAE's many ({SHOWN} samples; mean and "
            f"standard deviation of {DRAWN})",
            num_shown=SHOWN,
        )

    def training(self, table: pd.DataFrame, dataset: str) -> Figure:
        """Draw the losses of every epoch, beside the tutorial's figures where they are of the same images.

        Args:
            table: as from :func:`cvae.curves.training_table`.
            dataset: its name.
        """
        comparable = dataset == "mnist" and not self.args.binarize
        where = f"{setting_name(self.num_quadrant_inputs)} known; {self.splits}"
        return plot_training(
            table,
            f"{where}; {describe(vars(self.args))}, seed {self.seed}",
            dict(zip(("baseline", "CVAE"), TUTORIAL[self.num_quadrant_inputs])) if comparable else None,
        )

    def animation(self, history: History) -> Animation:
        """Make frames of what the CVAE predicted while it learned."""
        batch = self.images.batch(self.chosen[: history.snapshots[0].shape[1]])
        return Animation(
            [epoch["val"] for epoch in history.epochs],
            history.snapshots,
            batch["original"].squeeze(-3),
            batch["input"][0] >= 0,
            self._where(),
        )

    def _where(self) -> str:
        return f"{self.images.name}, {setting_name(self.num_quadrant_inputs)} known (outlined)"
