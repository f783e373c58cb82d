"""What a CVAE predicts while it learns."""

import torch
from torch import Tensor

from cvae.evaluate import draw_samples
from cvae.model import CVAE
from cvae.runtime import random_state, seed_stage, set_random_state

__all__ = ["Snapshots"]


class Snapshots:
    """Predictions for the same few images after each epoch, drawn with random numbers of their own.

    Args:
        cvae: as it is being trained.
        inputs: images with missing pixels, shape (images, h, w).
        samples_per_epoch: predictions an image, each from a latent sample of its own.
        seed: of the run.
    """

    def __init__(self, cvae: CVAE, inputs: Tensor, samples_per_epoch: int, seed: int) -> None:
        self.cvae = cvae
        self.inputs = inputs
        self.samples_per_epoch = samples_per_epoch
        self.seed = seed

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what an epoch gives: (samples, images, h, w)."""
        return self.samples_per_epoch, *self.inputs.shape

    def __call__(self, epoch: int) -> Tensor:
        """Return probabilities of all pixels in 255ths, uint8; training goes on as if nothing had been drawn."""
        device = self.inputs.device
        before = random_state(device)
        try:
            seed_stage(self.seed, f"snapshots, epoch {epoch}")
            samples = draw_samples(self.cvae, self.inputs, self.samples_per_epoch)
        finally:
            set_random_state(device, before)
        return (samples * 255).round().to(torch.uint8).cpu()
