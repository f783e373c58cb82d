"""Predict the missing quadrants of a digit with a conditional variational auto-encoder (CVAE).

For each number of known quadrants: train the baseline, train the CVAE on top of it, estimate the
conditional log-likelihoods (CLL) of the validation images, and draw samples.  Every epoch is saved:
after an interruption the same command resumes after the last finished one.
"""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from cvae.config import Config
from cvae.console import exit_status, parse_args, show_log

if __name__ == "__main__":
    parse_args(description=__doc__)  # before the imports that take seconds, which --help should not

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from tqdm import tqdm

from cvae import distributed, results
from cvae.animation import choose_inputs, take_snapshot
from cvae.baseline import BaselineNet
from cvae.checkpoint import lock_folder, seed_stage
from cvae.data import get_data, shard
from cvae.demo import write_demos
from cvae.evaluate import evaluate
from cvae.jobs import choose_jobs, run_side_by_side
from cvae.model import CVAE
from cvae.train import train_baseline, train_cvae

logger = logging.getLogger("cvae")

NUM_AMBIGUOUS = 4  # inputs of the diversity figure
NUM_ANIMATED, FRAMES_PER_EPOCH = 3, 3
VAL_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


def run(config: Config) -> None:
    """Train, evaluate and draw every run: each seed with each number of known quadrants."""
    device, start = distributed.choose_device(config.device), time.perf_counter()
    with (
        show_log(config.quiet),
        distributed.process_group(device),
        lock_folder(config.output_dir) if distributed.is_main() else nullcontext(),
    ):
        num_jobs, failed = choose_jobs(config, device), []
        config = distributed.from_main(results.prepare, config)
        if num_jobs > 1:
            failed = run_side_by_side(config, num_jobs)
        else:
            for seed, n in config.runs():
                train_and_evaluate(config, seed, n)
        if distributed.is_main():
            results.write_summary(config)
            logger.info("Total time: %s", tqdm.format_interval(time.perf_counter() - start))
            write_demos(config)
        if failed:
            number = f"{len(failed)} of {len(list(config.runs()))}"
            raise RuntimeError(f"{number} runs failed, see above: {'; '.join(failed)}")


def train_and_evaluate(config: Config, seed: int, n: int) -> None:
    """Train, evaluate and draw one run: n known quadrants with one seed."""
    device, name = distributed.choose_device(config.device), config.run_name(seed, n)
    rank, world_size = distributed.rank(), distributed.world_size()

    # The data: the known quadrants of an image, and those to be predicted.
    datasets, dataloaders, _ = get_data(
        n,
        **vars(config.data),
        val_batch_size=VAL_BATCH_SIZE,
        device=device,
        rank=rank,
        world_size=world_size,
        seed=seed,
    )
    num_pixels = datasets["train"].num_pixels
    *_, shown = datasets.values()
    inputs = choose_inputs(datasets["train"], shown, NUM_AMBIGUOUS)
    checkpoint = distributed.from_main(results.open_checkpoint, config, seed, n)
    evaluations = results.saved_evaluations(checkpoint, config)
    done = f"; done before, loaded from {checkpoint.path}" if evaluations else ""
    classes = datasets["train"].source.num_classes
    images = f"{results.describe(datasets)}, {classes} class{'es' * (classes > 1)}"
    logger.info("%s: %s, %s%s", name, images, device, done)

    # The baseline: a deterministic network with one prediction for each image.
    seed_stage(seed, "baseline")
    baseline_net = BaselineNet(num_pixels=num_pixels).to(device)
    baseline_history = train_baseline(
        baseline_net, dataloaders, config.baseline, checkpoint=checkpoint, name=name
    )

    # The CVAE on top of it: a distribution over predictions.
    seed_stage(seed, "CVAE")
    cvae_net = CVAE(
        pre_trained_baseline_net=baseline_net,
        activation=config.model.activation,
        generation_input=config.model.generation_input,
        residual_blocks=config.model.residual_blocks,
        num_pixels=num_pixels,
    ).to(device)
    animated = shown[inputs[:NUM_ANIMATED]]["input"]
    cvae_history = train_cvae(
        cvae_net,
        dataloaders,
        config.cvae,
        elbo=TraceMeanField_ELBO() if config.model.elbo == "mean-field" else Trace_ELBO(),
        checkpoint=checkpoint,
        name=name,
        snapshot=partial(take_snapshot, cvae_net, animated, FRAMES_PER_EPOCH, seed),
    )
    histories = {"baseline": baseline_history, "CVAE": cvae_history}

    # The table: negative conditional log-likelihoods of the images that were not trained on.
    if evaluations is None:
        logger.info("%s: estimating the conditional log-likelihoods", name)
        seed_stage(seed, "evaluation", rank)
        start = time.perf_counter()
        evaluations = {
            split: evaluate(
                cvae_net,
                shard(data, rank, world_size),
                **vars(config.evaluation),
                gather=distributed.gather_images,
            )
            for split, data in datasets.items()
            if split != "train"
        }
        seconds = time.perf_counter() - start
        if distributed.is_main():
            results.save_evaluations(checkpoint, config, evaluations, datasets, histories, seconds)
    if distributed.is_main():
        results.save_weights(config, seed, n, {"baseline": baseline_net, "cvae": cvae_net})
        results.write_results(config, seed)
        # The figures come last, so that none of them can cost a result.
        results.draw_figures(config, seed, n, cvae_net, datasets, inputs, histories, evaluations)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return exit_status(run, parse_args(argv, __doc__))


if __name__ == "__main__":
    sys.exit(main())
