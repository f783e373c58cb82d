"""Predict the missing quadrants of a digit with a conditional variational auto-encoder (CVAE).

For each number of known quadrants: train the baseline, train the CVAE on top of it, estimate the
conditional log-likelihoods (CLL) of the validation images, and draw samples.  Every epoch is put away:
after an interruption the same command goes on from there.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from cvae.options import UsageError, parse_args

logger = logging.getLogger("cvae")


def run(args: argparse.Namespace) -> None:
    """Run every setting with every seed that the command line asks for."""
    # These take seconds to import: here, so that --help and a bad command line need not wait for them.
    import warnings

    from cvae import distributed
    from cvae.experiment import prepare, run_seed
    from cvae.forecast import duration
    from cvae.output import check_unmixed, claim, written
    from cvae.report import Table, save_tables
    from cvae.runtime import choose_device
    from cvae.sources import resolve_dataset

    start = time.perf_counter()
    device = choose_device(args.device)
    warnings.formatwarning = lambda message, *_: f"\n{'*' * 80}\nWARNING: {message}\n{'*' * 80}\n\n"
    several = len(args.seeds) > 1
    folders = {seed: args.output_dir / f"seed_{seed}" if several else args.output_dir for seed in args.seeds}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_speaking(args.quiet))
        stack.enter_context(distributed.joined(device))
        if distributed.is_main():
            stack.enter_context(claim(args.output_dir))
            if not args.overwrite:
                check_unmixed(args.output_dir, several)
            if several:
                for folder in folders.values():
                    stack.enter_context(claim(folder))
        dataset = distributed.share(
            resolve_dataset(args.dataset, args.data_dir) if distributed.is_main() else args.dataset
        )
        tables, metrics = [], []
        for each in prepare(args, dataset, device, folders):
            table, metric = run_seed(each)
            tables.append(table)
            metrics.append(metric)
            print(f"\n{table.markdown()}", flush=True)
        if several and distributed.is_main():
            table = Table.of_seeds(tables, {**metrics[0], "seeds": args.seeds})
            save_tables(args.output_dir, table, {"caption": table.caption, "runs": metrics})
            print(f"\n{table.markdown()}", flush=True)
        paths = [
            path for folder in dict.fromkeys([*folders.values(), args.output_dir]) for path in written(folder)
        ]
        logger.info("Written:\n%s", "\n".join(f"  {path}" for path in paths))
        logger.info("Total time: %s", duration(time.perf_counter() - start))


class _Handler(logging.StreamHandler):
    """Let the run fail where its output can't be written, as ``print`` would."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


@contextlib.contextmanager
def _speaking(quiet: bool) -> Iterator[None]:
    """Print what the package says of its progress, and with ``quiet`` its warnings only."""
    handler = _Handler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_args(argv, __doc__)
    # Of the processes of torchrun one speaks for all.
    if int(os.environ.get("RANK", 0)) > 0 and not args.debug:
        sys.stdout = sys.stderr = open(os.devnull, "w")
    stopped: list[int] = []
    try:
        with _stopping(stopped):
            run(args)
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if args.debug:
            traceback.print_exc()
        if stopped:  # whatever a library made of it
            status, reason = 128 + stopped[0], _how_to_continue(signal.Signals(stopped[0]).name, args)
        elif isinstance(error, UsageError):
            status, reason = 2, f"error: {error}"
        elif isinstance(error, (OSError, RuntimeError, MemoryError)):
            status, reason = 1, f"error: {error or type(error).__name__}"
        else:
            raise
        print(f"main.py: {' '.join(reason.split())}", file=sys.stderr)
        return status


@contextlib.contextmanager
def _stopping(stopped: list[int]) -> Iterator[None]:
    """Let SIGINT and SIGTERM interrupt the work and be noted; a second one ends the process at once."""

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if not stopped:
            for number, handler in before.items():
                signal.signal(number, handler)


def _how_to_continue(name: str, args: argparse.Namespace) -> str:
    without = " without --overwrite" if args.overwrite else ""
    return f"stopped by {name}: the same command{without} goes on after the last finished epoch"


if __name__ == "__main__":
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: give its number to what no other file must take it for
            setattr(sys, name, open(os.devnull, "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace")
    sys.exit(main())
