"""A bare PyTorch loop over the same nets: no Pyro, no data loader, one fused Adam."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import MNIST

from cvae.baseline import BaselineNet
from cvae.model import CVAE

BATCH_SIZE = 128


class BareLoop:
    """Epochs and estimates over the first images of MNIST, one known quadrant.

    Args:
        root: folder that holds ``MNIST/raw``.
        images: how many to train on; a sixth as many validate.
    """

    def __init__(self, root: str, images: int = 60_000) -> None:
        self.images = {
            "train": MNIST(root, train=True).data[:images].view(-1, 784),
            "val": MNIST(root, train=False).data[: images // 6].view(-1, 784),
        }
        missing = torch.ones(28, 28)
        missing[14:, :14] = 0
        self.missing = missing.view(784)
        self.baseline = BaselineNet()
        self.cvae = CVAE(pre_trained_baseline_net=self.baseline)
        nets = (self.cvae.prior_net, self.cvae.recognition_net, self.cvae.generation_net)
        self.baseline_adam = torch.optim.Adam(self.baseline.parameters(), lr=1e-3, fused=True)
        self.cvae_adam = torch.optim.Adam(
            [p for net in nets for p in net.parameters()], lr=1e-3, fused=True
        )

    def baseline_epoch(self) -> float:
        return self._epoch(self._baseline_loss, self.baseline_adam)

    def cvae_epoch(self) -> float:
        return self._epoch(self._negative_elbo, self.cvae_adam)

    def table(self, num_particles: int = 10) -> float:
        with torch.no_grad():
            total = sum(
                self._baseline_loss(*self._batch("val", i)).item() for i in self._rows("val", 1000)
            )
            for i in self._rows("val", 4096 // num_particles):
                self._log_weights(*self._batch("val", i), num_particles).mean(0)
        return total

    def importance(self, num_particles: int = 100) -> float:
        total = 0.0
        with torch.no_grad():
            for i in self._rows("val", 4096 // num_particles):
                weights = self._log_weights(*self._batch("val", i), num_particles)
                total += (math.log(num_particles) - weights.logsumexp(0)).sum().item()
        return total / len(self.images["val"])

    def _epoch(self, loss_of, adam: torch.optim.Optimizer) -> float:
        for i in torch.randperm(len(self.images["train"])).split(BATCH_SIZE):
            loss_of(*self._batch("train", i)).backward()
            adam.step()
            adam.zero_grad()
        with torch.no_grad():
            losses = [loss_of(*self._batch("val", i)).item() for i in self._rows("val", 1000)]
        return sum(losses) / len(self.images["val"])

    def _rows(self, split: str, size: int):
        return torch.arange(len(self.images[split])).split(size)

    def _batch(self, split: str, index: Tensor) -> tuple[Tensor, Tensor]:
        whole = self.images[split][index].float() / 255
        return whole * (1 - self.missing) - self.missing, whole

    def _bce(self, logits: Tensor, whole: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, whole.expand_as(logits), reduction="none")
        return loss @ self.missing

    def _baseline_loss(self, x: Tensor, whole: Tensor) -> Tensor:
        return self._bce(self.baseline.logits(x), whole).sum()

    def _gaussians(self, x: Tensor, whole: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            y_hat = self.baseline(x)
        return *self.cvae.prior_net(x, y_hat), *self.cvae.recognition_net(x, whole)

    def _negative_elbo(self, x: Tensor, whole: Tensor) -> Tensor:
        p_loc, p_scale, q_loc, q_scale = self._gaussians(x, whole)
        z = q_loc + q_scale * torch.randn_like(q_loc)
        ratio = (q_scale / p_scale) ** 2
        kl = (ratio + ((q_loc - p_loc) / p_scale) ** 2 - 1 - ratio.log()).sum() / 2
        return kl + self._bce(self.cvae.generation_net.logits(z), whole).sum()

    def _log_weights(self, x: Tensor, whole: Tensor, num_particles: int) -> Tensor:
        p_loc, p_scale, q_loc, q_scale = self._gaussians(x, whole)
        noise = torch.randn(num_particles, *q_loc.shape)
        z = q_loc + q_scale * noise
        log_ratio = (noise**2 - ((z - p_loc) / p_scale) ** 2).sum(-1) / 2 + (
            q_scale / p_scale
        ).log().sum(-1)
        return log_ratio - self._bce(self.cvae.generation_net.logits(z), whole)
