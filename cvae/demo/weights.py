"""The networks of a model in few bytes: rounded weights, and only those that count."""

import zlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from cvae.baseline import BaselineNet, gives_logits
from cvae.files import FileError
from cvae.model import CVAE, Decoder, Encoder
from cvae.traces import get_trace
from cvae.trained import TrainedCVAE

__all__ = ["LOW_BITS", "Layers", "encode", "extract", "round_weights"]

Layers = dict[str, tuple[Tensor, Tensor]]  # weight (rows, columns) and bias (rows,) by name

KINDS = {"baseline": BaselineNet, "generation": Decoder, "prior": Encoder}
STEPS = 128  # in the root mean square of a row's weights
LARGEST = 16  # weight in root mean squares of its row; a row with larger ones has coarser steps
LOW_BITS = 6  # of a weight's 12


def extract(trained: TrainedCVAE) -> Layers:
    """Return the linear layers of baseline, prior network and generation network, by their names.

    Baseline and generation network see the known pixels alone and predict the missing ones alone.

    Raises:
        FileError: model or networks are of other classes, which the page can't compute.
    """
    known, layers = trained.known.flatten().cpu(), Layers()
    cvae, missing = trained.cvae, torch.full((1, *trained.known.shape), trained.mask.mask_with)
    for name in ("baseline_predictions", "prior", "likelihood", "model"):
        if getattr(type(cvae), name) is not getattr(CVAE, name):
            raise FileError(f"the page can't compute a model with {name} of its own")
    prior = cvae.prior(missing)
    drawn = get_trace(cvae.guide, missing).nodes["z"]["fn"]
    if not (torch.equal(drawn.mean, prior.mean) and torch.equal(drawn.stddev, prior.stddev)):
        raise FileError("the page can't compute a guide that draws from another prior")
    likelihood = cvae.likelihood(prior.mean, missing)
    for of, distribution in (Normal, getattr(prior, "base_dist", prior)), (Bernoulli, likelihood):
        if not isinstance(distribution, of):
            raise FileError(f"the page can't compute the model's {type(distribution).__name__}")
    for name, kind in KINDS.items():
        net: nn.Module = getattr(trained.cvae, f"{name}_net")
        if type(net) is not kind or not (gives_logits(net) or kind is Encoder):
            raise FileError(f"the {name} network is no {kind.__name__}, which the page computes")
        for path, layer in net.named_modules():
            if isinstance(layer, nn.Linear):
                weight = layer.weight.detach().float().cpu()
                bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu()
                if (name, path) == ("baseline", "fc1"):
                    bias = bias + trained.mask.mask_with * weight[:, ~known].sum(1)
                if (name, path) in (("baseline", "fc1"), ("generation", "fc0")):
                    weight = weight[:, known]
                if path == "fc3":
                    weight, bias = weight[~known], bias[~known]
                layers[f"{name}.{path}"] = weight, bias.float()
    return layers


def round_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the size of a step for each row, shape (rows, 1), and the weights in steps."""
    mean = weight.square().mean(1, keepdim=True).sqrt()
    size = torch.maximum(mean, weight.abs().amax(1, keepdim=True) / LARGEST) / STEPS
    size = size.where(size > 0, 1)
    return size, (weight / size).round().clamp(-LARGEST * STEPS, LARGEST * STEPS - 1)


def encode(layers: Layers) -> bytes:
    """Compress layers: steps and biases of the rows as floats, then two planes of bytes.

    A weight in steps is cut into its lowest bits, which are noise, and the others.  Each has so few
    values that a Huffman code spends hardly more bits on them than they have information.
    """
    floats, numbers = [], []
    for weight, bias in layers.values():
        size, number = round_weights(weight)
        floats += [size.flatten(), bias]
        numbers.append(number.flatten())
    whole = torch.cat(numbers).numpy().astype(np.int16)
    planes = (whole & (1 << LOW_BITS) - 1).astype(np.uint8), (whole >> LOW_BITS).astype(np.int8)
    gzip = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_HUFFMAN_ONLY)  # which keeps no date
    parts = torch.cat(floats).numpy().astype("<f4"), *planes
    return b"".join([*(gzip.compress(part.tobytes()) for part in parts), gzip.flush()])
