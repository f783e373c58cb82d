"""What every test starts from: fixed seeds, no network, tiny data and networks."""

import math

import pyro
import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

from cvae.baseline import BaselineNet
from cvae.data import CVAEMNIST, MaskImages, ToTensor, get_data, make_loader
from cvae.datasets import Images
from cvae.model import CVAE, Encoder

# Always the same examples, however long one takes.
settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
settings.load_profile("seeded")

torch.set_num_threads(1)  # in each of two processes

Z_DIM, HIDDEN_1, HIDDEN_2 = 3, 16, 12


@pytest.fixture(autouse=True)
def fixed_seed():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Send downloads to a port where nothing listens."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(params=[1, 2, 3])
def batch(request) -> dict[str, Tensor]:
    """Eight images of random grey pixels, one black, one white, with 1, 2 or 3 known quadrants."""
    images = torch.randint(0, 256, (8, 28, 28), dtype=torch.uint8)
    images[0], images[1] = 0, 255
    transform = Compose([ToTensor(), MaskImages(request.param)])
    source = Images(images, torch.arange(8), "random images")
    return CVAEMNIST("nowhere", transform=transform, source=source)[range(8)]


@pytest.fixture
def real_digits():
    """Data sets and loaders of 200 digits to train on and 200 to validate, one known quadrant."""
    return get_data(1, 50, dataset="mnist-5k", subset=200)


@pytest.fixture
def few(real_digits) -> dict[str, DataLoader]:
    """The same 20 digits to train on and to validate."""
    dataset = real_digits[0]["train"]
    dataset.source = dataset.source.select(range(20))
    return {"train": make_loader(dataset, 8, shuffle=True), "val": make_loader(dataset, 8)}


@pytest.fixture
def cvae() -> CVAE:
    return CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, BaselineNet(HIDDEN_1, HIDDEN_2))


@pytest.fixture
def dataset(real_digits) -> CVAEMNIST:
    return real_digits[0]["val"]


@pytest.fixture
def xs_ys(dataset) -> tuple[Tensor, Tensor]:
    batch = dataset[range(20)]
    return batch["input"], batch["output"]


def make_constant(encoder: Encoder, loc: float, scale: float) -> None:
    """Let an encoder give one Gaussian whatever it sees."""
    with torch.no_grad():
        for layer, value in ((encoder.fc31, loc), (encoder.fc32, math.log(scale))):
            layer.weight.zero_()
            layer.bias.fill_(value)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    weights = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, weights[name]), name
