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

from cvae.config import FILES, number
from cvae.console import EXPECTED_ERRORS, OneLineParser, one_line
from cvae.figures import plot_completions, save_figure
from cvae.own_images import read_image
from cvae.trained import TrainedCVAE

__all__ = ["complete_files", "fit_image", "main"]

NUM_COMPLETIONS = 100  # at least, for the mean


def complete_files(
    folder: Path, files: Sequence[Path], num_quadrant_inputs: int, num_samples: int, output: Path
) -> list[str]:
    """Complete the images in files, and draw the completions.

    Args:
        folder: of a run.
        files: one image each, of any size.
        num_quadrant_inputs: number of known quadrants: 1, 2 or 3.
        num_samples: completions of each image to show.
        output: a PNG file.

    Returns:
        Warnings: what was done to images to make them like those of the model.

    Raises:
        DataError: a file can't be read as an image.
        FileError: the folder holds no such model.
        OSError: the output can't be written.
    """
    trained = TrainedCVAE.load(folder, num_quadrant_inputs)
    fitted = [fit_image(file, trained.known.shape) for file in files]
    images = torch.stack([image for image, _ in fitted])
    completions = trained.complete(images, max(num_samples, NUM_COMPLETIONS))
    title = f"{folder.resolve().name}/{FILES['cvae'].format(n=num_quadrant_inputs)}"
    title += f": mean of {len(completions)} completions, and samples"
    mean, samples = completions.mean(0), completions[:num_samples]
    save_figure(plot_completions(images, trained.known, mean, samples, title), output)
    return [warning for _, warnings in fitted for warning in warnings]


def fit_image(file: Path, shape: Sequence[int]) -> tuple[torch.Tensor, list[str]]:
    """Read an image, and make it like those that a model was trained on.

    An image of another size is resized.  One with a bright background, by the median of its border,
    is inverted, as the strokes of the model's digits are bright.

    Args:
        file: a PNG, JPEG, BMP, TIFF or WebP file.
        shape: height and width of the model's images.

    Returns:
        Floats in [0, 1] of that shape, and what was done to the image.

    Raises:
        DataError: the file can't be read as an image.
    """
    pixels, warnings = read_image(file), []
    if pixels.shape != tuple(shape):
        size = "{} x {}".format(*pixels.shape)
        warnings.append(f"{file} has {size} pixels: resized to {shape[0]} x {shape[1]}")
        pixels = np.asarray(Image.fromarray(pixels).resize((shape[1], shape[0])))
    border = np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])
    if np.median(border) > 127:
        warnings.append(f"{file} has a bright background: inverted")
        pixels = 255 - pixels
    return torch.as_tensor(pixels / np.float32(255)), warnings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 for a failure, 2 for a bad line."""
    parser = OneLineParser("python -m cvae.complete", __doc__)
    parser.add_argument("folder", type=Path, help="of a run")
    parser.add_argument("images", type=Path, nargs="+", help="files of one image each")
    quadrants_help = "number of known quadrants (default: 1)"
    flags = ("-nq", "--num-quadrant-inputs")
    parser.add_argument(*flags, type=int, choices=(1, 2, 3), default=1, help=quadrants_help)
    parser.add_argument("-vs", "--num-samples", type=number(int, 1, 100), default=10, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("completions.png"), metavar="FILE")
    parser.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0, metavar="N")
    args = parser.parse_args(argv)
    pyro.set_rng_seed(args.seed)
    paths = [path.expanduser() for path in (args.folder, args.output, *args.images)]
    folder, output, *files = paths
    try:
        quadrants = args.num_quadrant_inputs
        for warning in complete_files(folder, files, quadrants, args.num_samples, output):
            print(f"{parser.prog}: warning: {warning}", file=sys.stderr)
    except EXPECTED_ERRORS as error:
        print(f"{parser.prog}: error: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"Written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
