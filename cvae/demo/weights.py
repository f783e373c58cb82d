"""The networks that predict, in as few bytes as it takes to predict the same.

Inputs that never change and outputs that nobody looks at are left out.  Weights are rounded to
multiples of a step, which each row of a matrix has of its own, and compressed.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.baseline import BaselineNet
from cvae.checkpoint import FileError
from cvae.model import MAX_LOG_SCALE, Decoder, Encoder
from cvae.trained import TrainedCVAE

__all__ = ["LIMIT", "Layers", "Networks", "encode", "extract", "low_bits"]
__all__ += ["round_to_predict_the_same", "round_weights"]

Layers = dict[str, tuple[Tensor, Tensor]]  # weight (rows, columns) and bias (rows,) by name

KINDS = {"baseline": BaselineNet, "generation": Decoder, "prior": Encoder}
LIMIT = 0.008  # to which rounding may change a pixel's probability in the images it is tried on
STEPS = (64, 128, 256, 512, 1024, 2048)  # in the root mean square of a row: 8 to 13 bits a weight
LARGEST = 16  # weight in root mean squares of its row; a row with larger ones has coarser steps


def extract(trained: TrainedCVAE) -> dict[str, Layers]:
    """Return the linear layers of baseline, prior network and generation network.

    Baseline and generation network see the known pixels alone and predict the missing ones alone.

    Raises:
        FileError: the networks are of other classes, which the page can't compute.
    """
    known, nets = trained.known.flatten().cpu(), dict[str, Layers]()
    for name, kind in KINDS.items():
        net: nn.Module = getattr(trained.cvae, f"{name}_net")
        if type(net) is not kind:
            raise FileError(f"the {name} network is no {kind.__name__}, which the page computes")
        nets[name] = layers = {}
        for path, layer in net.named_modules():
            if isinstance(layer, nn.Linear):
                weight = layer.weight.detach().float().cpu()
                bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
                if (name, path) == ("baseline", "fc1"):
                    bias = bias.cpu() + trained.mask.mask_with * weight[:, ~known].sum(1)
                if (name, path) in (("baseline", "fc1"), ("generation", "fc0")):
                    weight = weight[:, known]
                if path == "fc3":
                    weight, bias = weight[~known], bias.cpu()[~known]
                layers[path] = weight, bias.float().cpu()
    return nets


def round_weights(weight: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the size of a step for each row, shape (rows, 1), and the weights in steps."""
    mean = weight.square().mean(1, keepdim=True).sqrt()
    size = torch.maximum(mean, weight.abs().amax(1, keepdim=True) / LARGEST) / steps
    size = size.where(size > 0, 1)
    return size, (weight / size).round().clamp(-LARGEST * steps, LARGEST * steps - 1)


def low_bits(steps: int) -> int:
    """Return how many bits of a weight in steps are in the first plane of :func:`encode`."""
    return min(8, (LARGEST * steps).bit_length() - 6)


def encode(layers: Layers, steps: int) -> bytes:
    """Compress layers: steps and biases of the rows as floats, then two planes of bytes.

    A weight in steps is cut into its lowest bits, which are noise, and the others.  Each has so few
    values that a Huffman code spends hardly more bits on them than they have information.
    """
    floats, numbers = [], []
    for weight, bias in layers.values():
        size, number = round_weights(weight, steps)
        floats += [size.flatten(), bias]
        numbers.append(number.flatten())
    whole = torch.cat(numbers).numpy().astype(np.int16)
    low = low_bits(steps)
    planes = (whole & (1 << low) - 1).astype(np.uint8), (whole >> low).astype(np.int8)
    gzip = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_HUFFMAN_ONLY)
    parts = torch.cat(floats).numpy().astype("<f4"), *planes
    return b"".join([*(gzip.compress(part.tobytes()) for part in parts), gzip.flush()])


class Networks:
    """What the page computes: probabilities of the missing pixels, shape (..., missing)."""

    def __init__(self, nets: dict[str, Layers], activation: str) -> None:
        self.nets = nets
        self.activation: Callable[[Tensor], Tensor] = getattr(functional, activation)

    def _hidden(self, net: str, first: Tensor) -> Tensor:
        layers, act = self.nets[net], self.activation
        hidden = act(functional.linear(act(first), *layers["fc2"]))
        for path in layers:
            if path.startswith("blocks.") and path.endswith(".fc1"):
                inner = act(functional.linear(hidden, *layers[path]))
                hidden = hidden + functional.linear(inner, *layers[path[:-1] + "2"])
        return hidden

    def baseline(self, x: Tensor) -> Tensor:
        """Return the baseline's, given the known pixels, shape (N, known)."""
        layers, hidden = self.nets["baseline"], x
        for path in ("fc1", "fc2"):
            hidden = functional.linear(hidden, *layers[path]).relu()
        return functional.linear(hidden, *layers["fc3"]).sigmoid()

    def prior(self, xc: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of z, given whole images, shape (N, pixels)."""
        layers = self.nets["prior"]
        hidden = self._hidden("prior", functional.linear(xc, *layers["fc1"]))
        loc, log_scale = (functional.linear(hidden, *layers[path]) for path in ("fc31", "fc32"))
        return loc, log_scale.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()

    def generation(self, z: Tensor, x: Tensor) -> Tensor:
        """Return those for z of shape (..., N, z_dim), and the known pixels, shape (N, known)."""
        layers = self.nets["generation"]
        first = functional.linear(z, *layers["fc1"])
        if "fc0" in layers:
            first = first + functional.linear(x, *layers["fc0"])
        hidden = self._hidden("generation", first)
        return functional.linear(hidden, *layers["fc3"]).sigmoid()


@torch.no_grad()
def round_to_predict_the_same(
    trained: TrainedCVAE, nets: dict[str, Layers], images: Tensor
) -> dict[str, int]:
    """Find for each network the coarsest steps with which it predicts as in PyTorch.

    Args:
        trained, nets: the model, and what was extracted of it.
        images: to try it on, with 12 z each, shape (N, h, w), floats in [0, 1].

    Returns:
        By network, the number of steps in a row's root mean square.  No probability is further from
        the model's than ``LIMIT``: of the baseline; of the generation network, for the same z; and
        with another prior network, for the same normal numbers.

    Raises:
        FileError: there are no such steps, as a network computes something else than the page.
    """
    cvae, known = trained.cvae, trained.known.flatten()
    xs = trained.mask({"original": images[:, None]})["input"]
    x, y_hat = images.flatten(1)[:, known], cvae.baseline_predictions(xs)
    loc, scale = cvae.prior_net(xs, y_hat)
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn((12, *loc.shape), generator=generator)
    z, xc = loc + scale * eps, xs.where(trained.known, y_hat).flatten(1)
    inputs = (z, xs.clamp(min=0).flatten(1)) if cvae.generation_input == "xz" else (z,)
    completions = cvae.generation_net(*inputs)[..., ~known]

    def error(name: str, steps: int) -> float:
        rounded = {k: (torch.mul(*round_weights(w, steps)), b) for k, (w, b) in nets[name].items()}
        page = Networks(nets | {name: rounded}, cvae.prior_net.activation.__name__)
        if name == "baseline":
            return float((page.baseline(x) - y_hat.flatten(1)[:, ~known]).abs().max())
        here, spread = page.prior(xc) if name == "prior" else (loc, scale)
        return float((page.generation(here + spread * eps, x) - completions).abs().max())

    chosen = {}
    for name in nets:
        fine_enough = (steps for steps in STEPS if error(name, steps) < LIMIT)
        if not (steps := next(fine_enough, 0)):
            raise FileError(f"the {name} network computes something else than the page does")
        chosen[name] = steps
    return chosen
