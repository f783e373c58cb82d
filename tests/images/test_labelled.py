from dataclasses import FrozenInstanceError

import pytest
import torch

from cvae.errors import DataError
from cvae.images.labelled import LabelledImages


@pytest.fixture
def forty() -> LabelledImages:
    images = torch.randint(0, 256, (40, 4, 6), dtype=torch.uint8)
    return LabelledImages(images, torch.arange(40) % 10, "MNIST test set")


@pytest.mark.parametrize(
    "rows, expected, name",
    [
        (slice(None), range(40), "MNIST test set"),
        (slice(999), range(40), "MNIST test set"),
        (range(40), range(40), "MNIST test set"),
        (slice(7), range(7), "first 7 of the MNIST test set"),
        (range(30), range(30), "first 30 of the MNIST test set"),
        (slice(None, -10), range(30), "first 30 of the MNIST test set"),
        (slice(-10, None), range(30, 40), "images 31 to 40 of the MNIST test set"),
        (range(30, 33), range(30, 33), "images 31 to 33 of the MNIST test set"),
        (slice(0), range(0), "first 0 of the MNIST test set"),
    ],
)
def test_selected_images_are_named_and_have_their_digits(forty, rows, expected, name):
    selected = forty.select(rows)
    assert len(selected) == len(expected) and selected.name == name
    assert torch.equal(selected.images, forty.images[expected.start : expected.stop])
    assert torch.equal(selected.digits, forty.digits[expected.start : expected.stop])


def test_numbers_in_names_have_separators():
    images = torch.zeros(5000, 2, 2, dtype=torch.uint8)
    many = LabelledImages(images, torch.zeros(5000), "MNIST-5k training split")
    assert many.select(range(2000)).name == "first 2,000 of the MNIST-5k training split"
    assert (
        many.select(slice(-1000, None)).name
        == "images 4,001 to 5,000 of the MNIST-5k training split"
    )


def test_binarized_pixels_are_black_or_white_with_the_threshold_at_one_half():
    greys = LabelledImages(
        torch.arange(256, dtype=torch.uint8).view(1, 16, 16), torch.zeros(1), "greys"
    )
    binarized = greys.binarized()
    assert binarized.images.dtype == torch.uint8
    assert torch.equal(binarized.images / 255, (greys.images / 255 >= 0.5).float())
    assert binarized.name == "greys, binarized" and torch.equal(binarized.digits, greys.digits)
    assert greys.select(slice(0)).binarized().name == "first 0 of the greys, binarized"


@pytest.mark.parametrize("height, width", [(27, 28), (28, 27), (0, 28), (28, 0)])
def test_odd_sizes_are_refused(height, width):
    complaint = f"^odd holds images of {height} x {width} pixels: height and width must be even$"
    with pytest.raises(DataError, match=complaint):
        LabelledImages(torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(3), "odd")


def test_fingerprint_is_that_of_the_images_alone(forty):
    others = LabelledImages(forty.images.clone(), forty.digits + 1, "others")
    assert others.fingerprint() == forty.fingerprint()
    assert len(forty.fingerprint()) == 16 and int(forty.fingerprint(), 16)
    changed = forty.images.clone()
    changed[-1, -1, -1] ^= 1
    assert LabelledImages(changed, forty.digits, forty.name).fingerprint() != forty.fingerprint()
    zeros = LabelledImages(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1), "zeros")
    assert zeros.fingerprint() == "df3f619804a92fdb"  # sha256sum of four zero bytes


def test_they_move_to_a_device_and_never_change(forty):
    moved = forty.to("meta")
    assert moved.images.is_meta and moved.digits.is_meta and moved.name == forty.name
    assert not forty.images.is_meta
    with pytest.raises(FrozenInstanceError):
        forty.name = "others"
