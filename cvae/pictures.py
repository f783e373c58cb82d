"""The figures of one setting, from a trained model, its images and how it was trained."""

import argparse
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from cvae.animation import Animation, has_ffmpeg
from cvae.curves import TUTORIAL, plot_training, training_table
from cvae.data import CVAEMNIST, MaskImages
from cvae.diagram import plot_model
from cvae.evaluate import Evaluation, draw_samples
from cvae.files import replacing
from cvae.model import CVAE
from cvae.plot import plot_diversity, plot_problem, plot_samples
from cvae.progress import History
from cvae.recipes import describe
from cvae.report import setting_name, with_error
from cvae.runtime import seed_stage
from cvae.sheet import DPI

__all__ = ["Pictures"]

logger = logging.getLogger(__name__)

SHOWN = 20  # samples an image of the diversity figure
DRAWN = 500  # of which its means and standard deviations are
NO_BREAK = "\u00a0"
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

    def save(
        self, folder: Path, cvae: CVAE, evaluation: Evaluation, histories: dict[str, History], dataset: str
    ) -> None:
        """Write ``cvae_plot_q{n}.png``, ``diversity_q{n}.png``, ``training_q{n}.png`` and ``training_q{n}.csv``.

        Args:
            folder: an existing folder.
            cvae: the trained model.
            evaluation: of ``images``.
            histories: of ``baseline`` and ``CVAE``.
            dataset: its name, which tells whether the tutorial's figures are of the same images.

        Raises:
            OSError: a file can't be written; the one of that name that was there stays whole.
        """
        n = self.num_quadrant_inputs
        table = training_table(histories)
        with replacing(folder / f"training_q{n}.csv") as file:
            file.write(table.to_csv(index=False, lineterminator="\n").encode())
        _save_figure(folder / f"training_q{n}.png", self.training(table, dataset))
        _save_figure(folder / f"cvae_plot_q{n}.png", self.samples(cvae, evaluation))
        _save_figure(folder / f"diversity_q{n}.png", self.diversity(cvae))

    def save_common(self, folder: Path) -> None:
        """Write ``problem.png`` and ``model.png``, which are the same for every setting.

        Raises:
            OSError: a file can't be written; the one of that name that was there stays whole.
        """
        _save_figure(folder / "problem.png", self.problem())
        _save_figure(folder / "model.png", plot_model(self.args.generation_input))

    def save_animation(self, folder: Path, history: History) -> None:
        """Write ``training_q{n}.gif``, and ``training_q{n}.mp4`` where ffmpeg is found and works.

        Raises:
            OSError: a file can't be written; the one of that name that was there stays whole.
        """
        animation = self.animation(history)
        for kind in ("gif", "mp4") if has_ffmpeg() else ("gif",):
            path = folder / f"training_q{self.num_quadrant_inputs}.{kind}"
            try:
                content = animation.encode(kind)
            except (OSError, subprocess.SubprocessError) as error:
                logger.warning("no %s: %s", path, error)
                continue
            with replacing(path) as file:
                file.write(content)

    def problem(self) -> Figure:
        """Draw what is given and what is not, for every setting."""
        truth = self.images.batch(range(min(PROBLEMS, len(self.images))))["original"]
        known = {setting_name(n): MaskImages(n)({"original": truth})["input"][0] >= 0 for n in (1, 2, 3)}
        return plot_problem(truth.squeeze(-3), known)

    def samples(self, cvae: CVAE, evaluation: Evaluation) -> Figure:
        """Draw samples for images that are the same whatever the setting."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.seed))
        batch = self.images.batch(order[: self.args.num_images])
        seed_stage(self.seed, "figure")
        cll = {
            row: with_error(estimate.mean, estimate.standard_error).replace(" ", NO_BREAK)
            for row, estimate in evaluation.rows.items()
        }
        return plot_samples(
            batch["input"],
            batch["original"].squeeze(-3),
            cvae.guess(batch["input"]),
            draw_samples(cvae, batch["input"], self.args.num_samples),
            title=f"{self.images.name}, {len(self.images):,} images; {self._known()}\nNegative CLL in nats per image, "
            f"lower is better: NN {cll['NN (baseline)']}; CVAE {cll['CVAE (Monte Carlo)']} (Monte Carlo, "
            f"{self.args.num_particles} particles)",
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
        return f"{self.images.name}, {self._known()}"

    def _known(self) -> str:
        return f"{setting_name(self.num_quadrant_inputs)} known (outlined)"


def _save_figure(path: Path, figure: Figure) -> None:
    """Write a PNG, the same bytes whenever it is the same figure."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
