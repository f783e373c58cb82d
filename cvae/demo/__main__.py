"""Write demo.html into the output folder of a finished run: python -m cvae.demo results

The page completes what you draw, in any browser, without a server.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cvae.demo import find_folders, write_demo
from cvae.experiment.command_line import OneLineParser, add_model_flag, dataset_name, folder
from cvae.experiment.console import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 for a failure, 2 for a bad line."""
    parser = OneLineParser("python -m cvae.demo", __doc__)
    parser.add_argument(
        "folder", type=folder, help="output folder of a finished run, of one seed or several"
    )
    help = "folder of the data sets' files (default: data)"
    parser.add_argument("--data-dir", type=folder, default=Path("data"), metavar="DIR", help=help)
    help = "path of the run's images, if these are your own"
    parser.add_argument("--dataset", type=dataset_name, metavar="PATH", help=help)
    add_model_flag(parser)
    args = parser.parse_args(argv)

    def command() -> None:
        for of_seed in find_folders(args.folder):
            print(f"Written to {write_demo(of_seed, args.data_dir, args.dataset, args.model)}")

    return run_command(parser.prog, command)


if __name__ == "__main__":
    sys.exit(main())
