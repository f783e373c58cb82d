"""Predict the missing quadrants of a digit with a conditional variational auto-encoder (CVAE).

For each number of known quadrants: train the baseline, train the CVAE on top of it, estimate the
conditional log-likelihoods (CLL), and draw samples.  The same command resumes an interrupted run.
"""

import logging
import sys
import time

from tqdm import tqdm

from cvae import distributed
from cvae.baseline import BaselineNet
from cvae.demo import write_demos
from cvae.evaluate import evaluate
from cvae.experiment import metrics
from cvae.experiment.checkpoint import seed_stage
from cvae.experiment.command_line import parse_args
from cvae.experiment.console import exit_status, show_log
from cvae.experiment.folder import lock_folder, open_checkpoint, prepare, save_weights
from cvae.experiment.jobs import CHILD, choose_jobs, run_child, run_side_by_side
from cvae.experiment.models import find_model
from cvae.experiment.options import Config, Run
from cvae.experiment.pictures import Pictures, describe
from cvae.files import RunError
from cvae.model import CVAE
from cvae.train import BaselineTraining, CVAETraining

logger = logging.getLogger("cvae")


def run_all(config: Config) -> None:
    """Train, evaluate and draw every run: each seed with each number of known quadrants."""
    device, start = distributed.choose_device(config.device), time.perf_counter()
    with show_log(config.quiet), distributed.process_group(device), lock_folder(config.output_dir):
        num_jobs, failed = choose_jobs(config, device), []
        config = prepare(config, train_and_evaluate, CVAE)
        if num_jobs > 1:
            failed = run_side_by_side(config, num_jobs, __file__)
        else:
            for run in config.runs():
                train_and_evaluate(run)
        if distributed.is_main():
            metrics.write_summary(config)
            logger.info("Total time: %s", tqdm.format_interval(time.perf_counter() - start))
            write_demos(config)
        if failed:
            number = f"{len(failed)} of {len(config.runs())}"
            raise RunError(f"{number} runs failed, see above: {'; '.join(failed)}")


def train_and_evaluate(run: Run) -> None:
    """Train, evaluate and draw one run: n known quadrants with one seed."""
    config, seed, n = run.config, run.seed, run.num_quadrant_inputs
    device, bar = distributed.choose_device(config.device), not config.quiet

    # The data: the known quadrants of an image, and those to be predicted.
    datasets, dataloaders, _ = config.data.get_data(n, seed, device)
    pictures = Pictures(run, datasets)
    checkpoint = distributed.from_main(open_checkpoint, run)
    evaluations = metrics.saved_evaluations(checkpoint, config)
    done = f"; done before, loaded from {checkpoint.path}" if evaluations else ""
    logger.info("%s: %s, %s%s", run.name, describe(datasets, classes=True), device, done)

    # The baseline: a deterministic network with one prediction for each image.
    seed_stage(seed, "baseline")
    baseline_net = BaselineNet(num_pixels=datasets["train"].num_pixels).to(device)
    baseline = BaselineTraining(baseline_net, dataloaders, config.baseline, run.name, bar)
    for _ in checkpoint.each_epoch(baseline):
        pass

    # The CVAE on top of it: a distribution over predictions.
    seed_stage(seed, "CVAE")
    cvae_net = find_model(config.model.model)(
        pre_trained_baseline_net=baseline_net,
        activation=config.model.activation,
        generation_input=config.model.generation_input,
        residual_blocks=config.model.residual_blocks,
        num_pixels=baseline_net.num_pixels,
    ).to(device)
    phases = config.make_phases(len(dataloaders["train"]))
    cvae = CVAETraining(cvae_net, dataloaders, config.cvae, phases=phases, name=run.name, bar=bar)
    for epoch in checkpoint.each_epoch(cvae, pictures.snapshots):
        pictures.take_snapshot(cvae_net, epoch)
    histories = {"baseline": baseline.history, "CVAE": cvae.history}

    # The table: negative conditional log-likelihoods of the images that were not trained on.
    if evaluations is None:
        logger.info("%s: estimating the conditional log-likelihoods", run.name)
        seed_stage(seed, "evaluation", distributed.rank())
        start = time.perf_counter()
        evaluations = {
            split: evaluate(
                cvae_net,
                data,
                num_particles=config.evaluation.num_particles,
                num_importance_samples=config.evaluation.num_importance_samples,
            )
            for split, data in datasets.items()
            if split != "train"
        }
        seconds = time.perf_counter() - start
        if distributed.is_main():
            metrics.save_evaluations(run, checkpoint, evaluations, datasets, histories, seconds)
    if distributed.is_main():
        save_weights(run, {"baseline": baseline_net, "cvae": cvae_net})
        metrics.write_per_image(run, evaluations, datasets)
        metrics.write_results(config, seed)
        # The figures come last, so that none of them can cost a result.
        pictures.draw(cvae_net, histories, evaluations)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    if argv is None and sys.argv[1:] == [CHILD]:  # one of several jobs
        return run_child(train_and_evaluate)
    return exit_status(run_all, parse_args(argv, __doc__))


if __name__ == "__main__":
    sys.exit(main())
