"""The tutorial's way, as a reference for speed: one image at a time, one tensor at a time.

Per-image PIL transforms, boolean-mask indexing, ``Trace_ELBO``, Pyro's Adam with an optimizer for
each tensor, and a table made at batch 32 with autograd on.  Where the tutorial's code no longer
runs, masked targets are set to zero and the likelihood does not check its values.
"""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import MNIST
from torchvision.transforms import functional

from cvae.baseline import BaselineNet
from cvae.model import Decoder

Z_DIM, HIDDEN = 200, 500


class PerImage(Dataset):
    def __init__(self, root: str, train: bool, count: int, num_quadrant_inputs: int) -> None:
        self.mnist, self.count, self.n = MNIST(root, train=train), count, num_quadrant_inputs

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        image, label = self.mnist[item]
        original, digit = functional.to_tensor(image), torch.as_tensor(np.asarray(label))
        given, output = original.squeeze().clone(), original.squeeze().clone()
        output[14:, :14] = -1
        if self.n >= 2:
            output[:, :14] = -1
        if self.n == 3:
            output[:14, :] = -1
        given[output != -1] = -1
        return {"original": original, "digit": digit, "input": given, "output": output}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.fc31, self.fc32 = nn.Linear(HIDDEN, Z_DIM), nn.Linear(HIDDEN, Z_DIM)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        whole = x.clone()
        whole[x == -1] = y[x == -1]
        hidden = F.relu(self.fc2(F.relu(self.fc1(whole.view(-1, 784)))))
        return self.fc31(hidden), torch.exp(self.fc32(hidden))


class MaskedCVAE(nn.Module):
    def __init__(self, baseline: BaselineNet) -> None:
        super().__init__()
        self.baseline_net, self.prior_net, self.recognition_net = baseline, Encoder(), Encoder()
        self.generation_net = Decoder(Z_DIM, HIDDEN, HIDDEN)

    def model(self, xs: Tensor, ys: Tensor) -> None:
        pyro.module("generation_net", self)
        with pyro.plate("data"):
            with torch.no_grad():
                y_hat = self.baseline_net(xs).view(xs.shape)
            z = pyro.sample("z", dist.Normal(*self.prior_net(xs, y_hat)).to_event(1))
            missing = xs == -1
            scored = self.generation_net(z)[missing.view(-1, 784)].view(len(xs), -1)
            likelihood = dist.Bernoulli(scored, validate_args=False).to_event(1)
            pyro.sample("y", likelihood, obs=ys[missing].view(len(xs), -1))

    def guide(self, xs: Tensor, ys: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(*self.recognition_net(xs, ys)).to_event(1))


class TutorialWay:
    """The tasks of :class:`tests.perf.package.Package`, with the same arguments."""

    def __init__(self, root: str, images: int = 60_000, num_quadrant_inputs: int = 1) -> None:
        self.val = PerImage(root, False, images // 6, num_quadrant_inputs)
        train = PerImage(root, True, images, num_quadrant_inputs)
        self.loaders = DataLoader(train, 128, shuffle=True), DataLoader(self.val, 128)
        self.baseline = BaselineNet(HIDDEN, HIDDEN)
        self.baseline_adam = torch.optim.Adam(self.baseline.parameters(), lr=1e-3)
        self.cvae: Any = MaskedCVAE(self.baseline)
        adam = pyro.optim.Adam({"lr": 1e-3})
        self.svi = SVI(self.cvae.model, self.cvae.guide, adam, loss=Trace_ELBO())

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        prediction, target = self.baseline(batch["input"]), batch["output"].view(-1, 784)
        loss = F.binary_cross_entropy(prediction, target.clamp(min=0), reduction="none")
        loss[target == -1] = 0
        return loss.sum()

    def baseline_epoch(self) -> float:
        train, val = self.loaders
        for batch in train:
            self.baseline_adam.zero_grad()
            self._loss(batch).backward()
            self.baseline_adam.step()
        with torch.no_grad():
            return sum(self._loss(batch).item() for batch in val) / len(self.val)

    def cvae_epoch(self) -> float:
        train, val = (((b["input"], b["output"]) for b in each) for each in self.loaders)
        with pyro.get_param_store().scope():
            for xs, ys in train:
                self.svi.step(xs, ys)
            return sum(self.svi.evaluate_loss(xs, ys) for xs, ys in val) / len(self.val)

    def table(self) -> float:
        elbo, total = Trace_ELBO(num_particles=10), 0.0
        with pyro.get_param_store().scope():
            for batch in DataLoader(self.val, 32):
                total += self._loss(batch).item()
                elbo.loss(self.cvae.model, self.cvae.guide, batch["input"], batch["output"])
        return total / len(self.val)
