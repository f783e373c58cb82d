"""The tutorial's way of doing it, as a reference for speed: one image at a time, one tensor at a time.

Per-image PIL transforms and default collation, boolean-mask indexing, ``Trace_ELBO``, Pyro's Adam with an
optimizer for each tensor, the baseline's prediction computed anew at every step, and a table made at batch 32
with autograd on.  The two places where the tutorial's code no longer runs are mended as lightly as can be:
masked targets are set to zero before the loss, and the likelihood does not check its values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, functional

from cvae.baseline import BaselineNet
from cvae.model import Decoder

BATCH_SIZE = 128
TABLE_BATCH_SIZE = 32

Sample = dict[str, Any]


class PILQuadrants(Dataset):
    """MNIST with each image decoded and transformed when it is asked for."""

    def __init__(self, root: str, train: bool, transform: Callable[[Sample], Sample]) -> None:
        self.mnist = MNIST(root, train=train)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.mnist)

    def __getitem__(self, item: int) -> Sample:
        image, digit = self.mnist[item]
        return self.transform({"original": image, "digit": digit})


class ImageToTensor:
    """Convert one image and its digit."""

    def __call__(self, sample: Sample) -> Sample:
        sample["original"] = functional.to_tensor(sample["original"])
        sample["digit"] = torch.as_tensor(np.asarray(sample["digit"]), dtype=torch.int64)
        return sample


class MaskBySlices:
    """Cut the known quadrants out of the output, and all others out of the input."""

    def __init__(self, num_quadrant_inputs: int) -> None:
        self.num = num_quadrant_inputs

    def __call__(self, sample: Sample) -> Sample:
        image = sample["original"].squeeze()
        height, width = image.shape
        output = image.detach().clone()
        output[height // 2 :, : width // 2] = -1
        if self.num >= 2:
            output[:, : width // 2] = -1
        if self.num == 3:
            output[: height // 2, :] = -1
        given = image.clone()
        given[output != -1] = -1
        return {**sample, "input": given, "output": output}


class Encoder(nn.Module):
    """An encoder that puts its two images together by boolean masks."""

    def __init__(self, z_dim: int, hidden_1: int, hidden_2: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, hidden_1)
        self.fc2 = nn.Linear(hidden_1, hidden_2)
        self.fc31 = nn.Linear(hidden_2, z_dim)
        self.fc32 = nn.Linear(hidden_2, z_dim)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        whole = x.clone()
        whole[x == -1] = y[x == -1]
        hidden = F.relu(self.fc2(F.relu(self.fc1(whole.view(-1, 784)))))
        return self.fc31(hidden), torch.exp(self.fc32(hidden))


class MaskedCVAE(nn.Module):
    """Model and guide over the whole image, of which the missing part is then cut out by a mask."""

    def __init__(self, baseline: BaselineNet, hidden: int = 500, z_dim: int = 200) -> None:
        super().__init__()
        self.baseline_net = baseline
        self.prior_net = Encoder(z_dim, hidden, hidden)
        self.generation_net = Decoder(z_dim, hidden, hidden)
        self.recognition_net = Encoder(z_dim, hidden, hidden)

    def model(self, xs: Tensor, ys: Tensor) -> None:
        pyro.module("generation_net", self)
        with pyro.plate("data"):
            with torch.no_grad():
                y_hat = self.baseline_net(xs).view(xs.shape)
            z = pyro.sample("z", dist.Normal(*self.prior_net(xs, y_hat)).to_event(1))
            loc = self.generation_net(z)
            missing = xs == -1
            scored = loc[missing.view(-1, 784)].view(len(xs), -1)
            likelihood = dist.Bernoulli(scored, validate_args=False).to_event(1)
            pyro.sample("y", likelihood, obs=ys[missing].view(len(xs), -1))

    def guide(self, xs: Tensor, ys: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(*self.recognition_net(xs, ys)).to_event(1))


def masked_bce(prediction: Tensor, target: Tensor) -> Tensor:
    target = target.view(prediction.shape)
    loss = F.binary_cross_entropy(prediction, target.clamp(min=0), reduction="none")
    loss[target == -1] = 0
    return loss.sum()


class TutorialWay:
    """The tutorial's epochs and table over the first images of MNIST.

    Args:
        root: folder that holds ``MNIST/raw``.
        images: how many to train on; a sixth as many validate.
        num_quadrant_inputs: number of known quadrants.
    """

    def __init__(self, root: str, images: int = 60_000, num_quadrant_inputs: int = 1) -> None:
        transform = Compose([ImageToTensor(), MaskBySlices(num_quadrant_inputs)])
        self.data: dict[str, Any] = {
            "train": Subset(PILQuadrants(root, True, transform), range(images)),
            "val": Subset(PILQuadrants(root, False, transform), range(images // 6)),
        }
        self.loaders = {
            split: DataLoader(data, batch_size=BATCH_SIZE, shuffle=split == "train")
            for split, data in self.data.items()
        }
        self.baseline = BaselineNet()
        self.baseline_adam = torch.optim.Adam(self.baseline.parameters(), lr=1e-3)
        self.cvae = MaskedCVAE(self.baseline)
        self.svi = SVI(
            self.cvae.model, self.cvae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO()
        )

    def baseline_epoch(self) -> float:
        for batch in self.loaders["train"]:
            self.baseline_adam.zero_grad()
            loss = masked_bce(self.baseline(batch["input"]), batch["output"])
            loss.backward()
            self.baseline_adam.step()
        return self._validate(
            lambda batch: masked_bce(self.baseline(batch["input"]), batch["output"]).item()
        )

    def cvae_epoch(self) -> float:
        with pyro.get_param_store().scope():
            for batch in self.loaders["train"]:
                self.svi.step(batch["input"], batch["output"])
            return self._validate(
                lambda batch: self.svi.evaluate_loss(batch["input"], batch["output"])
            )

    def table(self, num_particles: int = 10) -> float:
        elbo = Trace_ELBO(num_particles=num_particles)
        loader = DataLoader(self.data["val"], batch_size=TABLE_BATCH_SIZE)
        total = 0.0
        with pyro.get_param_store().scope():
            for batch in loader:
                total += masked_bce(self.baseline(batch["input"]), batch["output"]).item()
                elbo.loss(self.cvae.model, self.cvae.guide, batch["input"], batch["output"])
        return total

    def _validate(self, loss: Callable[[dict[str, Tensor]], float]) -> float:
        with torch.no_grad():
            return sum(loss(batch) for batch in self.loaders["val"]) / len(self.data["val"])
