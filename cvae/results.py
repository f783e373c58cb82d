"""What a run writes: weights, the table with its metrics, and figures."""

import json
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
import torch.nn as nn
from matplotlib.figure import Figure
from torch import Tensor

from cvae import distributed, figures
from cvae.animation import make_gif
from cvae.baseline import is_missing
from cvae.checkpoint import Checkpoint, atomic_write, seed_stage
from cvae.config import DATASETS, FILES, SEED_FOLDER, Config, UsageError, setting_name
from cvae.data import CVAEMNIST, MaskImages, get_data
from cvae.datasets import load_images, resolve_dataset
from cvae.evaluate import Evaluation, draw_samples, with_error
from cvae.model import CVAE
from cvae.own_images import find_own_images
from cvae.train import History

__all__ = ["Table", "describe", "draw_figures", "open_checkpoint", "prepare"]
__all__ += ["save_evaluations", "save_weights", "saved_evaluations", "write_results"]
__all__ += ["write_summary"]

logger = logging.getLogger(__name__)

SPLIT_NAMES = {"val": "validation", "test": "test"}
# The tutorial's table: NN and CVAE (Monte Carlo), nats per image, MNIST test set.
TUTORIAL = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}

NUM_PROBLEM_IMAGES = 4
NUM_DIVERSITY_SAMPLES = 500  # for mean and standard deviation; the first of them are shown
ANIMATED_FROM = 30_000  # training images: there the animation takes about 1 % of the time


def prepare(config: Config) -> Config:
    """Load the data set, and refuse an output folder that holds results of another kind.

    Returns:
        The config with the data set that ``auto`` stands for.

    Raises:
        DataError: the data set is missing, damaged or can't be downloaded.
        FileError: a checkpoint is damaged.
        UsageError: the folder holds results of other options.
    """
    dataset = resolve_dataset(config.data.dataset, config.data.data_dir)
    config = replace(config, data=replace(config.data, dataset=dataset))
    # Whatever is wrong with the data is told here, before anything is deleted.
    get_data(1, **vars(config.data), world_size=distributed.world_size())
    if dataset not in DATASETS:
        folders = {Path(dataset), *(file.parent for file in find_own_images(dataset))}
        if config.output_dir.resolve() in {folder.resolve() for folder in folders}:
            raise UsageError(f"{config.output_dir} holds the data set: choose another --output-dir")
    folder = config.output_dir
    seed_folders = sorted(folder.glob(SEED_FOLDER.format(seed="*")))
    if config.overwrite:
        for path in _find([folder, *seed_folders], *FILES):
            path.unlink()
    single, several = _find([folder], "checkpoint"), _find(seed_folders, "checkpoint")
    own, others = (several, single) if config.several_seeds else (single, several)
    if foreign := others or (not own and _find([folder], *FILES)):
        advice = "choose another --output-dir, or start afresh with --overwrite"
        raise UsageError(f"{foreign[0]} is there from another run: {advice}")
    for seed in config.seeds:
        config.folder(seed).mkdir(exist_ok=True)
        _open_all(config, seed)
    return config


def _find(folders: Sequence[Path], *files: str) -> list[Path]:
    patterns = [FILES[file].format(n="[123]") for file in files]
    return [path for each in folders for pattern in patterns for path in each.glob(pattern)]


def open_checkpoint(config: Config, seed: int, n: int) -> Checkpoint:
    """Read the checkpoint of a run, or begin one.

    Raises:
        FileError: it is damaged.
        UsageError: it is of a run with other options, or of other images.
    """
    data = config.data
    splits = load_images(data.dataset, data.data_dir)
    depends_on = {
        **config.trained_by,
        "dataset": data.dataset if data.dataset in DATASETS else "own images",  # wherever they lie
        "images": [images.fingerprint() for images in splits.values()],
        "image_shape": list(splits["train"].images.shape[1:]),
        "seed": seed,
    }
    return Checkpoint(config.path("checkpoint", seed, n), depends_on, older=Config().trained_by)


def _open_all(config: Config, seed: int) -> dict[int, Checkpoint]:
    """Read all checkpoints in the folder of a seed, by number of known quadrants."""
    there = [n for n in (1, 2, 3) if config.path("checkpoint", seed, n).exists()]
    return {n: open_checkpoint(config, seed, n) for n in there}


def describe(datasets: dict[str, CVAEMNIST]) -> str:
    """Name all splits, with the numbers of their images."""
    return ", ".join(_describe_split(data.name, len(data)) for data in datasets.values())


def _describe_split(name: str, num_images: int) -> str:
    return f"{name} ({num_images:,} images)"


def saved_evaluations(checkpoint: Checkpoint, config: Config) -> dict[str, Evaluation] | None:
    """Return by split what a run was evaluated to with these numbers of samples, if it was."""
    with checkpoint.reading():
        saved = checkpoint.parts.get("evaluation", {"options": None})
        if saved["options"] != vars(config.evaluation):
            return None
        return {split: Evaluation.from_dict(each) for split, each in saved["evaluations"].items()}


def save_evaluations(
    checkpoint: Checkpoint,
    config: Config,
    evaluations: dict[str, Evaluation],
    datasets: dict[str, CVAEMNIST],
    histories: dict[str, History],
    seconds: float,
) -> None:
    """Save all that the table and ``metrics.json`` say of a run."""
    trainings: dict[str, Any] = {
        net.lower(): {"epochs_run": len(history.epochs), "best_epoch": history.best_epoch}
        | {"seconds": history.seconds, "epochs": history.epochs}
        for net, history in histories.items()
    }
    versions = {"torch": str(torch.__version__), "pyro": pyro.__version__}
    summary = trainings | {
        "evaluation_seconds": seconds,
        "seconds": sum(history.seconds for history in histories.values()) + seconds,
        "device": datasets["train"].source.images.device.type,
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | versions,
    }
    checkpoint.save(
        evaluation={
            "options": dict(vars(config.evaluation)),
            "evaluations": {split: asdict(each) for split, each in evaluations.items()},
            "splits": {k: {"name": data.name, "images": len(data)} for k, data in datasets.items()},
            "summary": summary,
        }
    )


def save_weights(config: Config, seed: int, n: int, nets: dict[str, nn.Module]) -> None:
    """Write the plain state dicts of ``baseline`` and ``cvae``, as the tutorial does."""
    for name, net in nets.items():
        weights = {key: value.cpu() for key, value in net.state_dict().items()}
        with atomic_write(config.path(name, seed, n)) as file:
            torch.save(weights, file)


@dataclass(frozen=True)
class Table:
    """The tutorial's table: a column for each number of known quadrants, a row for each estimate.

    Attributes:
        values: in nats per image, unless the row says otherwise.
        errors: of these, in the same shape; NaN where there is none.
        caption: what the numbers are: sign, unit, images, particles, recipe and seed.
    """

    values: pd.DataFrame
    errors: pd.DataFrame
    caption: str

    @classmethod
    def of_run(
        cls, results: dict[int, dict[str, Evaluation]], caption: str, diagnostics: bool = False
    ) -> "Table":
        """Make the table of one seed, of evaluations by number of known quadrants and split."""
        values, errors = {}, {}
        for n, evaluations in results.items():
            for split, evaluation in evaluations.items():
                column = setting_name(n)
                column += f", {SPLIT_NAMES[split]}" if len(evaluations) > 1 else ""
                more = evaluation.diagnostics if diagnostics else {}
                rows: dict[str, Any] = {**evaluation.rows, **more}
                # series, as pandas 2.1 sorts the rows of a single dict
                values[column] = pd.Series({row: getattr(e, "mean", e) for row, e in rows.items()})
                errors[column] = pd.Series(
                    {row: getattr(e, "standard_error", None) for row, e in rows.items()}
                )
        caption = f"{caption}; ± standard error over images"
        return cls(pd.DataFrame(values), pd.DataFrame(errors, dtype=float), caption)

    @classmethod
    def of_seeds(cls, tables: Sequence["Table"], caption: str) -> "Table":
        """Make the table of means over seeds, with standard deviations, of the columns of all."""
        values = pd.concat([table.values for table in tables], join="inner")
        by_row = values.groupby(level=0, sort=False)
        return cls(by_row.mean(), by_row.std(), f"{caption} ± standard deviation over them")

    def markdown(self) -> str:
        """Format it in Markdown, with errors."""
        lines = [
            f"{self.caption}. Performance gap: baseline minus Monte Carlo.",
            "",
            f"| | {' | '.join(self.values.columns)} |",
            f"|---|{'---|' * len(self.values.columns)}",
        ]
        for row in self.values.index:
            cells = map(with_error, self.values.loc[row], self.errors.loc[row])
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``results.csv`` and ``results.md`` to an existing folder."""
        _write_text(folder / FILES["table"], self.values.to_csv(lineterminator="\n"))
        _write_text(folder / FILES["text"], self.markdown())


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def write_results(config: Config, seed: int) -> tuple[Table, dict[str, Any]] | None:
    """Write the table and ``metrics.json`` of one seed, of all runs evaluated with these samples.

    Returns:
        The table and the metrics, if there is such a run.
    """
    results: dict[int, dict[str, Evaluation]] = {}
    metrics: dict[str, Any] = {
        "unit": "nats per image, negative conditional log-likelihood",
        "dataset": config.data.dataset,
        "recipe": config.description,
        "seed": seed,
        "arguments": {name: str(value) for name, value in config.of_results.items()},
        "settings": {},
    }
    for n, checkpoint in _open_all(config, seed).items():
        if evaluations := saved_evaluations(checkpoint, config):
            results[n] = evaluations
            saved = checkpoint.parts["evaluation"]
            metrics["image_shape"] = checkpoint.config["image_shape"]
            metrics["splits"] = saved["splits"]
            metrics["settings"][f"q{n}"] = saved["summary"]
    if not results:
        return None
    metrics["seconds"] = sum(summary["seconds"] for summary in metrics["settings"].values())
    table = Table.of_run(results, f"{_caption(config, metrics)}, seed {seed}", config.diagnostics)
    metrics |= {"caption": table.caption, "results": {f"q{n}": each for n, each in results.items()}}
    table.write(config.folder(seed))
    _write_metrics(config.folder(seed), metrics)
    return table, metrics


def write_summary(config: Config) -> None:
    """Write and print the table of each seed, and of several seeds the means."""
    written = [each for seed in config.seeds if (each := write_results(config, seed))]
    tables, metrics = [table for table, _ in written], [each for _, each in written]
    if len(tables) > 1:
        seeds = ", ".join(str(each["seed"]) for each in metrics)
        mean = Table.of_seeds(tables, f"{_caption(config, metrics[0])}; mean of seeds {seeds}")
        mean.write(config.output_dir)
        _write_metrics(config.output_dir, {"caption": mean.caption, "runs": metrics})
        tables.append(mean)
    for table in tables:
        print(f"\n{table.markdown()}", flush=True)
    folders = dict.fromkeys([config.output_dir, *map(config.folder, config.seeds)])
    logger.info("Written to %s", ", ".join(map(str, folders)))


def _write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    text = json.dumps(metrics, indent=2, default=asdict)
    _write_text(folder / FILES["metrics"], text + "\n")


def _caption(config: Config, metrics: dict[str, Any]) -> str:
    saved = metrics["splits"].items()
    splits = {key: _describe_split(split["name"], split["images"]) for key, split in saved}
    where = f"{splits['val']}, which also decided when to stop training"
    if "test" in splits:
        decided = f"validation: {splits['val']}, which decided when to stop training"
        where = f"{decided}; test: {splits['test']}"
    evaluation = config.evaluation
    return (
        f"Negative CLL (nats per image; lower is better); {where}; Monte Carlo "
        f"{evaluation.num_particles} and the others {evaluation.num_importance_samples} particles; "
        f"{config.description}"
    )


def draw_figures(
    config: Config,
    seed: int,
    n: int,
    cvae: CVAE,
    datasets: dict[str, CVAEMNIST],
    inputs: list[int],
    histories: dict[str, History],
    evaluations: dict[str, Evaluation],
) -> None:
    """Draw all figures of a run, and ``problem.png`` with the first one.

    Args:
        config: of the command.
        seed: of the run.
        n: number of known quadrants.
        cvae: the trained model.
        datasets: by split; the figures show images of the last one.
        inputs: indices of a clear input and of ambiguous ones.
        histories: of ``baseline`` and ``CVAE``.
        evaluations: by split.
    """
    split, shown = list(datasets.items())[-1]
    setting = f"{shown.name}, {setting_name(n)} known (outlined)"

    epochs = {net: history.epochs for net, history in histories.items()}
    best = {net: history.best_epoch for net, history in histories.items()}
    table = figures.training_table(epochs, best)
    _write_text(config.path("losses", seed, n), table.to_csv(index=False, lineterminator="\n"))
    title = f"{setting_name(n)} known; {describe(datasets)}; {config.description}, seed {seed}"
    data = config.data
    all_of_mnist = data.dataset == "mnist" and not (data.subset or data.holdout or data.binarize)
    tutorial = dict(zip(("baseline", "CVAE"), TUTORIAL[n], strict=True)) if all_of_mnist else None
    figure = figures.plot_training(table, title, tutorial)
    figures.save_figure(figure, config.path("training", seed, n))

    def draw(
        file: str, plot: Callable[..., Figure], rows: Any, num_samples: int, title: str
    ) -> None:
        batch = shown[rows]
        seed_stage(seed, file)
        samples = draw_samples(cvae, batch["input"], num_samples)
        y_hat = cvae.baseline_predictions(batch["input"])
        figure = plot(*_truth_and_known(batch), y_hat, samples, title)
        figures.save_figure(figure, config.path(file, seed, n))

    cll = {row: with_error(e.mean, e.standard_error) for row, e in evaluations[split].rows.items()}
    title = (
        f"{setting}; {len(shown):,} images\n"
        f"Negative CLL in nats per image, lower is better: NN {cll['NN (baseline)']}; CVAE "
        f"{cll['CVAE (Monte Carlo)']} (Monte Carlo, {config.evaluation.num_particles} particles)"
    )
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))
    some = order[: config.num_images]
    draw("samples", figures.plot_samples, some, config.num_samples, title)
    title = (
        f"{setting}: the baseline's one answer, and the CVAE's many (20 samples; mean and standard "
        f"deviation of {NUM_DIVERSITY_SAMPLES})"
    )
    ambiguous = inputs[1:] or inputs
    draw("diversity", figures.plot_diversity, ambiguous, NUM_DIVERSITY_SAMPLES, title)

    if n == config.num_quadrant_inputs[0]:
        truth, _ = _truth_and_known(shown[:NUM_PROBLEM_IMAGES])
        masks = {m: MaskImages(m)({"original": truth[0]})["input"] for m in (1, 2, 3)}
        known = {setting_name(m): ~is_missing(mask) for m, mask in masks.items()}
        figures.save_figure(figures.plot_problem(truth, known), config.path("problem", seed))

    many_images = len(datasets["train"]) >= ANIMATED_FROM
    if many_images if config.animate is None else config.animate:
        history = histories["CVAE"]
        batch = shown[inputs[: history.snapshots[0].shape[1]]]
        losses = [epoch["val"] for epoch in history.epochs]
        gif = make_gif(
            losses, history.snapshots, *_truth_and_known(batch), setting, history.first_phase
        )
        with atomic_write(config.path("animation", seed, n)) as file:
            file.write(gif)


def _truth_and_known(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the whole images, shape (images, h, w), and which pixels are known, shape (h, w)."""
    return batch["original"].squeeze(-3), ~is_missing(batch["input"][0])
