"""What a CVAE predicts while it learns."""

import torch
from torch import Tensor

from cvae.evaluate import draw_samples
from cvae.model import CVAE
from cvae.training.randomness import random_state, seed_stage, set_random_state

__all__ = ["take_snapshot"]


def take_snapshot(cvae: CVAE, inputs: Tensor, num_samples: int, seed: int, epoch: int) -> Tensor:
    """Draw predictions after an epoch, and leave the random numbers of training as if nothing had been drawn.

    Args:
        cvae: as it is being trained.
        inputs: images with missing pixels, shape (images, h, w).
        num_samples: predictions an image, each from a latent sample of its own.
        seed: of the run.
        epoch: number of the epoch; each has random numbers of its own.

    Returns:
        Probabilities of all pixels in 255ths, uint8 of shape (samples, images, h, w), on the CPU.
    """
    state = random_state(inputs.device)
    try:
        seed_stage(seed, f"snapshots, epoch {epoch}")
        samples = draw_samples(cvae, inputs, num_samples)
    finally:
        set_random_state(inputs.device, state)
    return (samples * 255).round().to(torch.uint8).cpu()
