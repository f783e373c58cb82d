"""Predict the missing quadrants of a digit with a conditional variational auto-encoder (CVAE).

For each number of known quadrants: train the baseline, train the CVAE on top of it, estimate the
conditional log-likelihoods (CLL) of the validation images, and draw samples.  The files of a setting
are written when it is done.
"""

import argparse
import sys
from collections.abc import Sequence

from cvae.options import UsageError, parse_args


def run(args: argparse.Namespace) -> None:
    """Run every setting with every seed that the command line asks for."""
    # These take seconds to import: here, so that --help and a bad command line need not wait for them.
    import warnings

    from cvae.experiment import run_seed
    from cvae.report import Table, save_tables
    from cvae.runtime import check_writable, choose_device
    from cvae.sources import resolve_dataset

    device = choose_device(args.device)
    warnings.formatwarning = lambda message, *_: f"\n{'*' * 80}\nWARNING: {message}\n{'*' * 80}\n\n"
    several = len(args.seeds) > 1
    folders = {seed: args.output_dir / f"seed_{seed}" if several else args.output_dir for seed in args.seeds}
    for folder in folders.values():
        check_writable(folder)
    dataset = resolve_dataset(args.dataset, args.data_dir)

    tables, metrics = {}, {}
    for seed, folder in folders.items():
        tables[seed], metrics[seed] = run_seed(args, seed, dataset, device, folder)
        print(f"\n{tables[seed].markdown()}\nFiles are in {folder}.", flush=True)
    if several:
        common = {**metrics[args.seeds[0]], "seeds": args.seeds}
        table = Table.of_seeds(list(tables.values()), common)
        save_tables(args.output_dir, table, {"caption": table.caption, "runs": list(metrics.values())})
        print(f"\n{table.markdown()}\nFiles are in {args.output_dir}.", flush=True)


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
