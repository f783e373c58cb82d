"""Predict the missing quadrants of a digit with a conditional variational auto-encoder (CVAE).

For each number of known quadrants: train the baseline, train the CVAE on top of it, estimate the
conditional log-likelihoods (CLL) of the validation images, and draw samples.  The files of a setting
are written when it is done.
"""

import argparse
import sys
from collections.abc import Sequence

from cvae.options import UsageError, parse_args

VALIDATION_BATCH_SIZE = 1000  # without gradients there is memory for more images at once


def run(args: argparse.Namespace) -> None:
    """Run every setting that the command line asks for."""
    # These take seconds to import: here, so that --help and a bad command line need not wait for them.
    import time
    import warnings

    import pyro
    import torch

    from cvae.baseline import BaselineNet
    from cvae.data import get_data, make_loader
    from cvae.evaluate import draw_samples, evaluate
    from cvae.model import CVAE
    from cvae.plot import plot_samples
    from cvae.report import Results, markdown, save_setting, save_tables, setting_name
    from cvae.runtime import check_writable, choose_device, versions
    from cvae.sources import resolve_dataset
    from cvae.train import train_baseline, train_cvae

    start = time.perf_counter()
    device = choose_device(args.device)
    check_writable(args.output_dir)
    warnings.formatwarning = lambda message, *_: f"\n{'*' * 80}\nWARNING: {message}\n{'*' * 80}\n\n"
    dataset = resolve_dataset(args.dataset, args.data_dir)
    schedule = {
        "learning_rate": args.learning_rate,
        "num_epochs": args.num_epochs,
        "early_stop_patience": args.early_stop_patience,
    }
    results: Results = {}
    settings = {}
    for num_quadrant_inputs in args.num_quadrant_inputs:
        name = setting_name(num_quadrant_inputs)
        pyro.set_rng_seed(args.seed)  # a setting gives the same figures whatever ran before it
        datasets, dataloaders, sizes = get_data(
            num_quadrant_inputs,
            args.batch_size,
            dataset=dataset,
            data_dir=args.data_dir,
            subset=args.subset,
            device=device,
        )
        if args.num_images > sizes["val"]:
            raise UsageError(
                f"--num-images {args.num_images} is more than the {sizes['val']} validation images"
            )
        splits = ", ".join(f"{datasets[mode].name} ({sizes[mode]:,} images)" for mode in datasets)
        print(f"{name}: {splits}, seed {args.seed}, {device}", flush=True)
        dataloaders["val"] = make_loader(datasets["val"], VALIDATION_BATCH_SIZE)

        baseline_net = BaselineNet().to(device)
        baseline_history = train_baseline(baseline_net, dataloaders, label=f"{name}, baseline", **schedule)

        cvae_net = CVAE(pre_trained_baseline_net=baseline_net).to(device)
        for data in datasets.values():
            data.keep_guess(cvae_net.guess)
        cvae_history = train_cvae(cvae_net, dataloaders, elbo=args.elbo, label=f"{name}, CVAE", **schedule)

        validation, split = datasets["val"], datasets["val"].name
        del datasets, dataloaders, data  # the training images and their guesses make room
        print(f"{name}: estimating the CLL of {sizes['val']:,} images", flush=True)
        evaluation_start = time.perf_counter()
        results[num_quadrant_inputs] = evaluate(
            cvae_net,
            validation,
            num_particles=args.num_particles,
            num_importance_samples=args.num_importance_samples,
        )
        evaluation_seconds = time.perf_counter() - evaluation_start

        shown = torch.randperm(sizes["val"], generator=torch.Generator().manual_seed(args.seed))
        images = validation.batch(shown[: args.num_images])
        figure = plot_samples(
            images["input"],
            images["original"].squeeze(-3),
            images["guess"],
            draw_samples(cvae_net, images["input"], args.num_samples),
            title=f"{split}, {name} known (blue: to be predicted)",
        )

        settings[f"q{num_quadrant_inputs}"] = {
            "baseline": baseline_history.summary(),
            "cvae": cvae_history.summary(),
            "evaluation_seconds": evaluation_seconds,
        }
        metrics = {
            "unit": "nats per image, negative conditional log-likelihood",
            "dataset": dataset,
            "split": split,
            "train_images": sizes["train"],
            "seed": args.seed,
            "versions": versions(),
            "device": str(device),
            "arguments": {key: str(value) for key, value in vars(args).items()},
            "seconds": time.perf_counter() - start,
            "settings": settings,
        }
        nets = {"baseline_net": baseline_net, "cvae_net": cvae_net}
        save_setting(args.output_dir, num_quadrant_inputs, nets, figure)
        save_tables(args.output_dir, results, metrics)
        del validation, images  # so that the next setting's take their place
    print(f"\n{markdown(results, split)}\nFiles are in {args.output_dir}.", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv, __doc__)
    try:
        run(args)
    except UsageError as error:
        print(f"main.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"main.py: interrupted; settings that were done are in {args.output_dir}", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, MemoryError) as error:
        print(f"main.py: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
