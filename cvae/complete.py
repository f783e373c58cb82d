"""Complete images with a trained model: python -m cvae.complete results digit.png -nq 1

Draws a row for each image: what is given of it, the mean of its completions, and samples of them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyro
import torch
from PIL import Image

from cvae.experiment.command_line import OneLineParser, add_model_flag, number, png_file
from cvae.experiment.console import run_command
from cvae.experiment.metrics import changed_code, read_metrics
from cvae.figures import plot_completions, save_figure
from cvae.files import FILES
from cvae.model import CVAE
from cvae.own_images import has_bright_background, read_image
from cvae.trained import TrainedCVAE

__all__ = ["complete_files", "fit_image", "main"]

NUM_COMPLETIONS = 100  # at least, for the mean


def complete_files(
    folder: Path,
    files: Sequence[Path],
    num_quadrant_inputs: int,
    num_samples: int,
    output: Path,
    model: type[CVAE] = CVAE,
) -> list[str]:
    """Draw completions of the images in files, and return warnings.

    They are what :func:`fit_image` did to the images, and code that has changed since the training.

    Args:
        folder, files: of a run, and of one image each, of any size.
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        num_samples, output: completions of each image to show, and the PNG file to write.
        model: the class that was trained.

    Raises:
        DataError, FileError: an image or the model can't be read.
        OSError: the output can't be written.
    """
    trained = TrainedCVAE.load(folder, num_quadrant_inputs, model=model)
    metrics = read_metrics(folder)
    bright = metrics.get("bright_background", False)
    fitted = [fit_image(file, trained.known.shape, bright) for file in files]
    images = torch.stack([image for image, _ in fitted])
    completions = trained.complete(images, max(num_samples, NUM_COMPLETIONS))
    title = f"{folder.resolve().name}/{FILES['cvae'].format(n=num_quadrant_inputs)}"
    title += f": mean of {len(completions)} completions, and samples"
    mean, samples = completions.mean(0), completions[:num_samples]
    save_figure(plot_completions(images, trained.known, mean, samples, title), output)
    warnings = [warning for _, of_image in fitted for warning in of_image]
    if changed := changed_code(metrics, num_quadrant_inputs, trained.cvae):
        warnings.append(changed)
    return warnings


def fit_image(
    file: Path, shape: Sequence[int], bright: bool = False
) -> tuple[torch.Tensor, list[str]]:
    """Read an image as floats in [0, 1], like those of a model, and return what was done to it.

    It is resized, and inverted if its background, the median of its border, is not as theirs.

    Args:
        file: a PNG, JPEG, BMP, TIFF or WebP file.
        shape: height and width of the model's images, and of what is returned.
        bright: whether their background is bright.

    Raises:
        DataError: the file can't be read as an image.
    """
    pixels, warnings = read_image(file), []
    if pixels.shape != tuple(shape):
        size = "{} x {}".format(*pixels.shape)
        warnings.append(f"{file} has {size} pixels: resized to {shape[0]} x {shape[1]}")
        pixels = np.asarray(Image.fromarray(pixels).resize((shape[1], shape[0])))
    if has_bright_background(pixels) != bright:
        found = "dark" if bright else "bright"
        warnings.append(f"{file} has a {found} background, unlike the model's images: inverted")
        pixels = 255 - pixels
    return torch.as_tensor(pixels / np.float32(255)), warnings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 for a failure, 2 for a bad line."""
    parser = OneLineParser("python -m cvae.complete", __doc__)
    add = parser.add_argument
    add("folder", type=Path, help="output folder of a run")
    add("images", type=Path, nargs="+", help="files of one image each")
    help = "number of known quadrants (default: 1)"
    add("-nq", "--num-quadrant-inputs", type=int, choices=(1, 2, 3), default=1, help=help)
    help = "completions of each image to show (default: 10)"
    add("-vs", "--num-samples", type=number(int, 1, 100), default=10, metavar="N", help=help)
    default = Path("completions.png")
    add("--output", type=png_file, default=default, metavar="FILE", help=f"(default: {default})")
    help = "seed of the random numbers (default: 0)"
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, metavar="N", help=help)
    add_model_flag(parser)
    args = parser.parse_args(argv)
    pyro.set_rng_seed(args.seed)
    folder, *files = (path.expanduser() for path in (args.folder, *args.images))
    output: Path = args.output
    if output.resolve() in [file.resolve() for file in files]:
        parser.error(f"{output} would be overwritten: choose another --output")

    def command() -> None:
        settings = args.num_quadrant_inputs, args.num_samples, output, args.model
        for warning in complete_files(folder, files, *settings):
            print(f"{parser.prog}: warning: {warning}", file=sys.stderr)
        print(f"Written to {output}")

    return run_command(parser.prog, command)


if __name__ == "__main__":
    sys.exit(main())
