"""Evaluations of runs: saved in their checkpoints, written as tables and metrics.json."""

import ast
import contextlib
import json
import logging
import math
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
from torch import nn

from cvae import distributed
from cvae.data import CVAEMNIST
from cvae.evaluate import Estimate, Evaluation
from cvae.experiment.checkpoint import Checkpoint
from cvae.experiment.code import hash_net
from cvae.experiment.folder import open_checkpoints
from cvae.experiment.options import Config, Run, setting_name
from cvae.experiment.table import Table, make_caption, write_text
from cvae.files import FILES, FileError
from cvae.history import History
from cvae.own_images import has_bright_background

__all__ = ["changed_code", "read_metrics", "save_evaluations", "saved_evaluations"]
__all__ += ["write_per_image", "write_results", "write_summary"]

logger = logging.getLogger(__name__)


def saved_evaluations(checkpoint: Checkpoint, config: Config) -> dict[str, Evaluation] | None:
    """Return the evaluations by split, if they have these numbers of samples, and this code."""
    with checkpoint.reading():
        saved = checkpoint.stages.get("evaluation", {"options": None})
        if saved["options"] != vars(config.evaluation):
            return None
        if saved["code"] != config.identity.evaluation:
            return None
        plain = saved["evaluations"].items()
        return {split: Evaluation.from_dict(values) for split, values in plain}


def save_evaluations(
    run: Run,
    checkpoint: Checkpoint,
    evaluations: dict[str, Evaluation],
    datasets: dict[str, CVAEMNIST],
    histories: dict[str, History],
    seconds: float,
) -> None:
    """Save all that the table and ``metrics.json`` say of a run.

    Args:
        run, checkpoint: what was evaluated, and where to save it.
        evaluations, datasets: by split.
        histories: of ``baseline`` and ``CVAE``.
        seconds: that the evaluation took.
    """
    trainings: dict[str, Any] = {
        net.lower(): {"epochs_run": len(history.epochs), "best_epoch": history.best_epoch}
        | {"seconds": history.seconds, "epochs": history.epochs}
        for net, history in histories.items()
    }
    versions = {"torch": str(torch.__version__), "pyro": pyro.__version__}
    summary = trainings | {
        "net_code": checkpoint.stages["CVAE"]["net"],
        "evaluation_seconds": seconds,
        "seconds": sum(history.seconds for history in histories.values()) + seconds,
        "device": datasets["train"].source.images.device.type,
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | versions,
    }
    images, some = run.config.identity.images, datasets["train"].source.images[:1000]
    checkpoint.save(
        evaluation={
            "bright_background": has_bright_background(some.cpu().numpy()),
            "options": dict(vars(run.config.evaluation)),
            "code": run.config.identity.evaluation,
            "evaluations": {split: asdict(evaluation) for split, evaluation in evaluations.items()},
            "splits": {
                split: {"name": data.name, "images": len(data), "fingerprint": images[split]}
                for split, data in datasets.items()
            },
            "summary": summary,
        }
    )


def write_per_image(
    run: Run, evaluations: dict[str, Evaluation], datasets: dict[str, CVAEMNIST]
) -> None:
    """Write ``per_image_q{n}.csv``: what the estimates of a run are means of, by split."""
    frames = [
        pd.DataFrame(
            {"split": split, "label": datasets[split].source.digits.cpu().numpy()}
            | {row: values.numpy() for row, values in evaluation.per_image.items()}
        )
        for split, evaluation in evaluations.items()
    ]
    # Nine digits tell any two numbers of single precision apart.
    options = {"index_label": "image", "float_format": "%.9g", "lineterminator": "\n"}
    write_text(run.path("per_image"), pd.concat(frames).to_csv(**options))


def write_results(config: Config, seed: int) -> tuple[Table, dict[str, Any]] | None:
    """Write table, ``metrics.json`` and ``results_long.csv`` of one seed.

    They hold all of its runs that were evaluated with these numbers of samples.

    Returns:
        The table and the metrics, if there is such a run.
    """
    results, settings, about, other_code = {}, {}, dict[str, Any](), dict[str, list[str]]()
    for n, checkpoint in open_checkpoints(config, seed).items():
        if evaluations := saved_evaluations(checkpoint, config):
            saved = checkpoint.stages["evaluation"]
            results[n], settings[f"q{n}"] = evaluations, saved["summary"]
            about = {name: saved[name] for name in ("splits", "bright_background")}
            about["image_shape"] = checkpoint.config["image_shape"]
            if checkpoint.other_code:
                other_code[setting_name(n)] = checkpoint.other_code
    if not results:
        return None
    columns = [evaluation for splits in results.values() for evaluation in splits.values()]
    likelihoods = [evaluation.likelihood for evaluation in columns]
    about |= {"likelihood": "; ".join(dict.fromkeys(likelihoods)), "other_code": other_code}
    counts = {row: estimate.num_particles for row, estimate in columns[0].rows.items()}
    about["particles"] = {row: count for row, count in counts.items() if row.startswith("CVAE (")}
    caption = f"{make_caption(config, about)}, seed {seed}"
    table = Table.of_run(results, caption, config.diagnostics)
    dataset = os.path.basename(config.data.dataset)  # of one's own images, wherever they lie
    arguments = config.result_options | {"dataset": dataset}
    run = {
        "seed": seed,
        "seconds": sum(setting["seconds"] for setting in settings.values()),
        "settings": settings,
        "results": {f"q{n}": evaluations for n, evaluations in results.items()},
    }
    metrics = {
        "caption": table.caption,
        "unit": "nats per image, negative conditional log-likelihood",
        "dataset": dataset,
        "recipe": config.description,
        # JSON has no infinity: a limit that is none is null
        "arguments": {k: None if v == math.inf else v for k, v in arguments.items()},
        **about,
        "runs": [run],
    }
    table.write(config.folder(seed))
    _write_metrics(config.folder(seed), metrics)
    return table, metrics


def write_summary(config: Config) -> None:
    """Write and print the table of each seed, and of several seeds the means."""
    written = [result for seed in config.seeds if (result := write_results(config, seed))]
    tables, metrics = [table for table, _ in written], [of_seed for _, of_seed in written]
    if len(tables) > 1:
        runs = [run for of_seed in metrics for run in of_seed["runs"]]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        caption = f"{make_caption(config, metrics[0])}; mean of seeds {seeds}"
        mean = Table.of_seeds(tables, caption)
        mean.write(config.output_dir)
        _write_metrics(config.output_dir, metrics[0] | {"caption": mean.caption, "runs": runs})
        tables.append(mean)
    for table in tables:
        print(f"\n{table.markdown()}", flush=True)
    folders = dict.fromkeys([config.output_dir, *map(config.folder, config.seeds)])
    logger.info("Written to %s", ", ".join(map(str, folders)))


def _write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write ``metrics.json``, and its estimates as a table with a line for each."""
    text = json.dumps(metrics, indent=2, default=Evaluation.summary)
    write_text(folder / FILES["metrics"], text + "\n")
    lines = [
        {"seed": run["seed"], "num_quadrant_inputs": int(setting[1:]), "split": split, "row": row}
        | asdict(estimate)
        | {"dataset": metrics["dataset"], "recipe": metrics["recipe"]}
        for run in metrics["runs"]
        for setting, evaluations in run["results"].items()
        for split, evaluation in evaluations.items()
        for row, estimate in (evaluation.rows | evaluation.diagnostics).items()
        if isinstance(estimate, Estimate)
    ]
    text = pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")
    write_text(folder / FILES["long"], text)


def changed_code(metrics: dict[str, Any], num_quadrant_inputs: int, net: nn.Module) -> str:
    """Warn of code that has changed since it trained a net; empty if none has, or none is known.

    Args:
        metrics: of ``metrics.json``.
        num_quadrant_inputs, net: a setting in it, and the net that was loaded.
    """
    settings = metrics["runs"][0]["settings"]
    there = settings.get(f"q{num_quadrant_inputs}", {}).get("net_code", {})
    here = hash_net(net) if there else {}
    differ = [file for file in sorted(there | here) if there.get(file) != here.get(file)]
    name = FILES["cvae"].format(n=num_quadrant_inputs)
    return f"{name} was trained by other code (changed: {', '.join(differ)})" if differ else ""


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read ``metrics.json``, that of one seed in today's layout also if an older version wrote it.

    Raises:
        FileError: it is missing or damaged.
    """
    path = folder / FILES["metrics"]
    try:
        metrics = dict(json.loads(path.read_bytes()))
        if "runs" not in metrics:  # of one seed, whose arguments were written as strings
            metrics["runs"] = [{key: metrics[key] for key in ("seed", "settings", "results")}]
            for name, text in metrics["arguments"].items():
                with contextlib.suppress(SyntaxError, ValueError):  # a word stays a word
                    metrics["arguments"][name] = ast.literal_eval(text)
        return metrics
    except OSError as error:
        raise FileError(f"{path} can't be read ({error.strerror})") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged") from error
