"""Predict the missing quadrants of a digit with a conditional variational auto-encoder (CVAE).

For each number of known quadrants: train the baseline, train the CVAE on top of it, estimate the
conditional log-likelihoods (CLL) of the validation images, and draw samples.  Every epoch is saved:
after an interruption the same command resumes after the last finished one.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cvae.run import console
from cvae.run.command_line import parse_args
from cvae.run.settings import Settings

if TYPE_CHECKING:
    from cvae.storage.checkpoint import Checkpoint
    from cvae.training.progress import Progress


def run(settings: Settings) -> None:
    """Train, evaluate and draw every setting with every seed."""
    if settings.jobs != 1:
        from cvae.run.children import start_fork_server

        start_fork_server()
    # Imported here because PyTorch and Pyro take seconds, which --help should not.
    from cvae.run import output, preparation, results
    from cvae.run.jobs import run_side_by_side
    from cvae.training import distributed
    from cvae.training.progress import Progress

    device = preparation.choose_device(settings.device)
    with console.log_to_console(settings.quiet), distributed.process_group(device), output.lock_output(settings):
        settings, checkpoints = preparation.prepare(settings, device)
        forecast = preparation.make_forecast(settings)
        if settings.jobs == 1:
            for seed, n in settings.runs():
                progress = Progress(preparation.run_name(settings, seed, n), forecast)
                write_tables = partial(results.write_tables, settings, seed, checkpoints[seed])
                run_setting(settings, seed, n, checkpoints[seed][n], progress, write_tables)
        else:
            run_side_by_side(run_setting, settings, checkpoints, forecast)
        if distributed.is_main():
            results.write_summary(settings, checkpoints)
            output.log_folders(settings)


def run_setting(
    settings: Settings,
    seed: int,
    n: int,
    checkpoint: "Checkpoint",
    progress: "Progress",
    write_tables: Callable[[], None],
) -> None:
    """Train, evaluate and draw one setting, of n known quadrants, with one seed."""
    from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

    from cvae.baseline import BaselineNet
    from cvae.data import VALIDATION_BATCH_SIZE, get_data
    from cvae.evaluate import evaluate
    from cvae.figures import figures
    from cvae.figures.ambiguity import choose_inputs
    from cvae.figures.animation import take_snapshot
    from cvae.model import CVAE
    from cvae.run import preparation, results
    from cvae.train import train_baseline, train_cvae
    from cvae.training import distributed
    from cvae.training.randomness import seed_stage

    device, folder = preparation.choose_device(settings.device), settings.folder(seed)
    evaluated = results.is_evaluated(checkpoint, settings)

    # The data: the known quadrants of an image, and those to be predicted.
    datasets, dataloaders, _ = get_data(
        n, settings.batch_size, val_batch_size=VALIDATION_BATCH_SIZE, device=device, **settings.data_options()
    )
    dataloaders = distributed.divide(dataloaders, seed)
    num_pixels = datasets["train"].num_pixels
    preparation.begin_setting(progress, datasets, checkpoint.path if evaluated else None)

    # The baseline: a deterministic network with one prediction for each image.
    seed_stage(seed, "baseline")
    baseline_net = BaselineNet(num_pixels=num_pixels).to(device)
    baseline_history = train_baseline(
        baseline_net, dataloaders, settings.baseline, checkpoint=checkpoint, progress=progress
    )

    # The CVAE on top of it: a distribution over predictions.
    seed_stage(seed, "CVAE")
    cvae_net = CVAE(
        pre_trained_baseline_net=baseline_net,
        activation=settings.activation,
        generation_input=settings.generation_input,
        num_pixels=num_pixels,
    ).to(device)
    distributed.seed_other_processes(seed, "CVAE")
    if not evaluated:
        for data in datasets.values():
            data.cache_baseline_predictions(cvae_net.baseline_predictions)
    shown_split, shown = list(datasets.items())[-1]
    chosen = choose_inputs(datasets["train"], shown, figures.NUM_AMBIGUOUS)
    animated_inputs = shown[chosen[: figures.NUM_ANIMATED]]["input"]
    cvae_history = train_cvae(
        cvae_net,
        dataloaders,
        settings,
        elbo=TraceMeanField_ELBO() if settings.elbo == "mean-field" else Trace_ELBO(),
        checkpoint=checkpoint,
        progress=progress,
        snapshot=partial(take_snapshot, cvae_net, animated_inputs, figures.FRAMES_PER_EPOCH, seed),
    )
    histories = {"baseline": baseline_history, "CVAE": cvae_history}

    # The table: negative conditional log-likelihoods of the images that were not trained on.
    if not evaluated:
        seed_stage(seed, "evaluation")
        distributed.seed_other_processes(seed, "evaluation")
        progress.log("estimating the conditional log-likelihoods")
        evaluation_start = time.perf_counter()
        evaluations = {
            split: evaluate(cvae_net, data, **settings.evaluation_options())
            for split, data in datasets.items()
            if split != "train"
        }
        seconds = time.perf_counter() - evaluation_start
        progress.record("evaluation", seconds)
        if distributed.is_main():
            results.save_evaluations(checkpoint, settings, evaluations, datasets, histories, seconds)
    if distributed.is_main():
        results.save_weights(folder, n, {"baseline_net": baseline_net, "cvae_net": cvae_net})
        write_tables()

        # The figures come last, so that none of them can cost a result.
        figures.draw_figures(
            folder,
            settings,
            cvae_net,
            shown,
            chosen,
            results.load_evaluations(checkpoint)[shown_split],
            histories,
            num_quadrant_inputs=n,
            seed=seed,
            splits=preparation.describe_splits(datasets),
            animate=figures.wants_animation(settings, len(datasets["train"])),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    settings = parse_args(argv, __doc__)
    return console.exit_status(run, settings)


if __name__ == "__main__":
    console.open_closed_streams()
    sys.exit(main())
