"""The figures of a run: which images they show, what they say above them, and their files."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cvae import figures
from cvae.baseline import is_missing
from cvae.data import CVAEMNIST, MaskImages
from cvae.evaluate import Evaluation, draw_samples, with_error
from cvae.experiment.animation import make_gif, take_snapshot
from cvae.experiment.checkpoint import seed_stage
from cvae.experiment.options import Run, setting_name
from cvae.experiment.table import describe_split, write_text
from cvae.files import atomic_write
from cvae.history import History, Losses
from cvae.model import CVAE

__all__ = ["Pictures", "choose_inputs", "describe"]

# The tutorial's table: NN and CVAE (Monte Carlo), nats per image, MNIST test set.
TUTORIAL = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}

NUM_PROBLEM_IMAGES = 4
NUM_AMBIGUOUS = 4  # inputs of the diversity figure
NUM_DIVERSITY_SAMPLES = 500  # for mean and standard deviation; the first of them are shown
NUM_ANIMATED, FRAMES_PER_EPOCH = 3, 3
ANIMATED_FROM = 30_000  # training images, with which the animation takes about 1 % of a run

NUM_CANDIDATES, NUM_COMPARED = 2000, 10_000  # the first images of each data set
IMAGES_AT_ONCE = 250  # of each, compared in double precision
NUM_NEIGHBOURS, MIN_FRACTION = 20, 0.3  # of these an ambiguous input's second label has at least


def choose_inputs(training: CVAEMNIST, images: CVAEMNIST, num_ambiguous: int) -> list[int]:
    """Choose images by the labels of the training images whose known pixels are nearest.

    The first choice is clear: all its neighbours have its own label.  The others are ambiguous: two
    labels, one of them its own, are about equally frequent among its neighbours.  Each is of
    another pair of labels, such as 4 and 9, the most frequent pair first.

    Args:
        training, images: those to look for neighbours in, and to choose from; equal pixels known.
        num_ambiguous: how many to choose, besides the clear one; the first images fill up.

    Returns:
        ``1 + num_ambiguous`` different indices into ``images``, or fewer if it has fewer.
    """
    known = ~is_missing(images[:1]["input"][0]).cpu()
    far = training.source.images[:NUM_COMPARED].cpu()[:, known]
    near = images.source.images[:NUM_CANDIDATES].cpu()[:, known]
    nearest = torch.cat([_nearest(some, far) for some in near.split(IMAGES_AT_ONCE)])
    labels = training.source.digits.cpu()[nearest].tolist()
    own = images.source.digits[:NUM_CANDIDATES].tolist()
    clear, ambiguous = [], defaultdict(list)  # the latter by the pair of labels
    for index, (label, neighbours) in enumerate(zip(own, labels, strict=True)):
        counts = dict(Counter(neighbours).most_common(2))
        evenness = min(counts.values()) / len(neighbours)
        if label in counts and evenness == 1:
            clear.append(index)
        elif label in counts and evenness >= MIN_FRACTION:
            ambiguous[frozenset(counts)].append((evenness, -index))
    pairs = sorted(ambiguous, key=lambda pair: len(ambiguous[pair]), reverse=True)[:num_ambiguous]
    clear.sort(key=lambda index: any(own[index] in pair for pair in pairs))
    most_even = [-max(ambiguous[pair])[1] for pair in pairs]
    return list(dict.fromkeys([*clear[:1], *most_even, *range(len(own))]))[: 1 + num_ambiguous]


def _nearest(near: Tensor, far: Tensor) -> Tensor:
    """Find the nearest rows of ``far`` for each row of ``near``; both are of uint8."""
    # Whole numbers in double precision are exact, so the choice is the same on every machine.
    near, distances = 2 * near.double(), []  # squared, up to a constant per row of near
    for some in map(Tensor.double, far.split(IMAGES_AT_ONCE)):
        distances.append(some.square().sum(1) - near @ some.t())
    return torch.cat(distances, 1).topk(min(NUM_NEIGHBOURS, len(far)), largest=False).indices


def describe(datasets: Mapping[str, CVAEMNIST], classes: bool = False) -> str:
    """Name all splits, with the numbers of their images, and perhaps that of classes."""
    words = [describe_split(data.name, len(data)) for data in datasets.values()]
    if classes:
        number = datasets["train"].source.num_classes
        words.append(f"{number} class{'es' * (number > 1)}")
    return ", ".join(words)


class Pictures:
    """All figures of a run, which show images of its last split.

    Args:
        run: whose figures they are.
        datasets: by split.

    Attributes:
        snapshots: completions of a few inputs after each epoch of the CVAE, for the animation.
    """

    def __init__(self, run: Run, datasets: Mapping[str, CVAEMNIST]) -> None:
        self.run, self.datasets = run, datasets
        self.split, self.images = list(datasets.items())[-1]
        self.inputs = choose_inputs(datasets["train"], self.images, NUM_AMBIGUOUS)
        self.animated = self.images[self.inputs[:NUM_ANIMATED]]
        self.snapshots: list[Tensor] = []
        n = run.num_quadrant_inputs
        self.setting = f"{self.images.name}, {setting_name(n)} known (outlined)"

    def take_snapshot(self, cvae: CVAE, epoch: int) -> None:
        """Complete the animation's inputs after an epoch of the CVAE."""
        inputs, seed = self.animated["input"], self.run.seed
        self.snapshots.append(take_snapshot(cvae, inputs, FRAMES_PER_EPOCH, seed, epoch))

    def draw(
        self, cvae: CVAE, histories: Mapping[str, History], evaluations: Mapping[str, Evaluation]
    ) -> None:
        """Draw all figures, and ``problem.png`` with the first run.

        Args:
            cvae: the trained model.
            histories: of ``baseline`` and ``CVAE``.
            evaluations: by split.
        """
        self._draw_training(histories, evaluations[self.split])
        self._draw_samples(cvae, evaluations[self.split])
        self._draw_diversity(cvae)
        if self.run.num_quadrant_inputs == self.run.config.num_quadrant_inputs[0]:
            self._draw_problem()
        many_images = len(self.datasets["train"]) >= ANIMATED_FROM
        if many_images if self.run.config.animate is None else self.run.config.animate:
            self._animate(histories["CVAE"])

    def _draw_training(self, histories: Mapping[str, History], evaluation: Evaluation) -> None:
        config, n = self.run.config, self.run.num_quadrant_inputs
        epochs = {net: history.epochs for net, history in histories.items()}
        best = {net: history.best_epoch for net, history in histories.items()}
        table = figures.training_table(epochs, best)
        write_text(self.run.path("losses"), table.to_csv(index=False, lineterminator="\n"))
        title = f"{setting_name(n)} known; {describe(self.datasets)}; {config.description}"
        data = config.data
        changed = data.subset or data.holdout or data.binarize
        unweighted = all(map(_is_bound, epochs["CVAE"]))
        same = unweighted and "Performance gap" in evaluation.rows
        comparable = data.dataset == "mnist" and not changed and same
        reference = dict(zip(histories, TUTORIAL[n], strict=True)) if comparable else None
        loss = "negative lower bound" if unweighted else "loss, with a weight of a term"
        figure = figures.plot_training(table, f"{title}, seed {self.run.seed}", reference, loss)
        figures.save_figure(figure, self.run.path("training"))

    def _draw_samples(self, cvae: CVAE, evaluation: Evaluation) -> None:
        config = self.run.config
        rows = evaluation.rows.items()
        cll = {row: with_error(value.mean, value.standard_error) for row, value in rows}
        title = (
            f"{self.setting}; {len(self.images):,} images\n"
            f"Negative CLL in nats per image, lower is better: NN {cll['NN (baseline)']}; CVAE "
            f"{cll['CVAE (Monte Carlo)']} (Monte Carlo, "
            f"{evaluation.rows['CVAE (Monte Carlo)'].num_particles} particles)"
        )
        if "Performance gap" not in evaluation.rows:
            title += f"; {evaluation.likelihood}"
        generator = torch.Generator().manual_seed(self.run.seed)
        some = torch.randperm(len(self.images), generator=generator)[: config.num_images]
        self._draw_completions("samples", cvae, some, config.num_samples, title)

    def _draw_diversity(self, cvae: CVAE) -> None:
        title = (
            f"{self.setting}: the baseline's one answer, and the CVAE's many (20 samples; mean "
            f"and standard deviation of {NUM_DIVERSITY_SAMPLES})"
        )
        ambiguous = self.inputs[1:] or self.inputs
        self._draw_completions("diversity", cvae, ambiguous, NUM_DIVERSITY_SAMPLES, title)

    def _draw_completions(
        self, file: str, cvae: CVAE, rows: Any, num_samples: int, title: str
    ) -> None:
        plot = {"samples": figures.plot_samples, "diversity": figures.plot_diversity}[file]
        batch = self.images[rows]
        seed_stage(self.run.seed, file)
        samples = draw_samples(cvae, batch["input"], num_samples)
        y_hat = cvae.baseline_predictions(batch["input"])
        figure = plot(*_truth_and_known(batch), y_hat, samples, title)
        figures.save_figure(figure, self.run.path(file))

    def _draw_problem(self) -> None:
        truth, _ = _truth_and_known(self.images[:NUM_PROBLEM_IMAGES])
        masks = {m: MaskImages(m)({"original": truth[0]})["input"] for m in (1, 2, 3)}
        known = {setting_name(m): ~is_missing(mask) for m, mask in masks.items()}
        figures.save_figure(figures.plot_problem(truth, known), self.run.path("problem"))

    def _animate(self, history: History) -> None:
        gif = make_gif(history, self.snapshots, *_truth_and_known(self.animated), self.setting)
        with atomic_write(self.run.path("animation")) as file:
            file.write(gif)


def _is_bound(epoch: Losses) -> bool:
    """Whether a validation loss is one of the likelihood: without a weight of one of its terms."""
    terms = epoch.get("reconstruction", epoch["val"]) + epoch.get("kl", 0)
    return math.isclose(epoch["val"], terms, rel_tol=0.01)


def _truth_and_known(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the whole images, shape (images, h, w), and which pixels are known, shape (h, w)."""
    return batch["original"].squeeze(-3), ~is_missing(batch["input"][0])
