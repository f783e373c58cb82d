"""What every test starts from: fixed seeds, an empty parameter store, tiny data and networks."""

import hashlib
import math
import struct

import pyro
import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torchvision.transforms import Compose

from cvae.baseline import BaselineNet
from cvae.data import CVAEMNIST, MaskImages, ToTensor, get_data
from cvae.images import sources
from cvae.images.labelled import LabelledImages
from cvae.model import CVAE

# Always the same examples, however long one takes.
settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
settings.load_profile("seeded")

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


@pytest.fixture
def random_digits(monkeypatch) -> LabelledImages:
    """Let both data sets hold 40 images of random grey pixels, among them plain black and white ones."""
    images = torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8)
    images[0], images[1] = 0, 255

    def load_images(dataset, data_dir, train, *_, **__):
        name = f"MNIST {'training' if train else 'test'} set"
        return LabelledImages(images, torch.arange(40) % 10, name)

    monkeypatch.setattr("cvae.data.load_images", load_images)
    return load_images("mnist", "nowhere", True)


@pytest.fixture
def mnist_dir(tmp_path, monkeypatch):
    """A folder with four files in MNIST's format that pass for the originals.

    60 images to train, all of value 7, and 10 to validate, all of value 9.
    """
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    md5s = {}
    for split, value, count in (("train", 7, 60), ("t10k", 9, 10)):
        images = struct.pack(">IIII", 2051, count, 28, 28) + bytes([value]) * count * 784
        digits = struct.pack(">II", 2049, count) + bytes(item % 10 for item in range(count))
        for name, content in (
            (f"{split}-images-idx3-ubyte", images),
            (f"{split}-labels-idx1-ubyte", digits),
        ):
            (raw / name).write_bytes(content)
            md5s[f"MNIST/raw/{name}"] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(sources, "MD5S", md5s)
    return tmp_path


@pytest.fixture(params=[1, 2, 3])
def batch(request, random_digits) -> dict[str, Tensor]:
    """Eight images with one, two or three known quadrants."""
    transform = Compose([ToTensor(), MaskImages(request.param)])
    return CVAEMNIST("nowhere", transform=transform)[range(8)]


@pytest.fixture
def real_digits():
    """Data sets and loaders of 200 real digits to train on and 200 to validate, one known quadrant."""
    return get_data(1, 50, dataset="mnist-5k", subset=200)


@pytest.fixture
def cvae() -> CVAE:
    return CVAE(Z_DIM, HIDDEN_1, HIDDEN_2, BaselineNet(HIDDEN_1, HIDDEN_2))


@pytest.fixture
def dataset(real_digits) -> CVAEMNIST:
    return real_digits[0]["val"]


@pytest.fixture
def xs_ys(dataset):
    batch = dataset[range(20)]
    return batch["input"], batch["output"]


def make_constant(encoder, loc, scale):
    """Let an encoder give one Gaussian whatever it sees."""
    with torch.no_grad():
        for layer, value in ((encoder.fc31, loc), (encoder.fc32, math.log(scale))):
            layer.weight.zero_()
            layer.bias.fill_(value)
