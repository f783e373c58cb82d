import pytest
import torch
from torchvision.transforms import Compose

from cvae.ambiguity import choose_inputs
from cvae.data import CVAEMNIST, MaskImages, ToTensor, get_data
from cvae.sources import Digits


def data(monkeypatch, known, digits):
    """Images whose known quadrant is of one grey each."""
    images = torch.zeros(len(known), 28, 28, dtype=torch.uint8)
    images[:, 14:, :14] = torch.tensor(known, dtype=torch.uint8)[:, None, None]
    images[:, :14] = torch.randint(0, 256, (len(known), 14, 28), dtype=torch.uint8)
    monkeypatch.setattr("cvae.data.load_digits", lambda *_: Digits(images, torch.tensor(digits)))
    return CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(1)]))


def test_clear_inputs_have_neighbours_of_one_label_and_ambiguous_ones_of_two(monkeypatch):
    """Grey 50 is always a 1, 100 a 2 or a 3, 150 a 4 or a 5 and 200 a 6 or a 7, the more often the brighter."""
    training = data(
        monkeypatch,
        [50] * 20 + [100] * 20 + [150] * 20 + [200] * 20,
        [1] * 20 + [2] * 13 + [3] * 7 + [4] * 11 + [5] * 9 + [6] * 10 + [7] * 10,
    )
    images = data(
        monkeypatch,
        [200, 100, 50, 150, 150, 150, 200, 100, 49],
        [9, 3, 1, 5, 4, 8, 7, 2, 0],
    )
    assert choose_inputs(training, images, 3)[0] == 2  # the only one with its own label all around it
    assert set(choose_inputs(training, images, 3)[1:]) == {
        1,
        3,
        6,
    }  # of each pair the most even, the first one
    assert choose_inputs(training, images, 2)[1:] == [
        1,
        3,
    ]  # two images in doubt each, before the one of 6 or 7
    assert choose_inputs(training, images, 5) == [2, 1, 3, 6, 0, 4]  # filled up


def test_hidden_pixels_have_no_say(monkeypatch):
    training = data(monkeypatch, list(range(0, 200, 2)), [i % 5 for i in range(100)])
    images = data(monkeypatch, list(range(0, 100, 3)), [i % 5 for i in range(34)])
    chosen = choose_inputs(training, images, 3)
    for each in (training, images):
        each.images[:, :14] = 7
        each.images[:, 14:, 14:] = 99
    assert choose_inputs(training, images, 3) == chosen


@pytest.mark.parametrize("images", [1, 3, 40])
def test_without_labels_the_first_images_are_taken(random_digits, images):
    random_digits.digits[:] = 0
    part = CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(2)]), subset=images)
    assert choose_inputs(part, part, 4) == list(range(min(5, images)))


@pytest.mark.parametrize("labels", [[-3, 10**12], [0.0] * 2])
def test_any_numbers_are_labels(monkeypatch, labels):
    images = data(monkeypatch, [10, 20], [int(label) for label in labels])
    assert choose_inputs(images, images, 1) == [0, 1]


def test_real_digits_are_told_apart_as_people_would():
    datasets, _, _ = get_data(1, 100, dataset="mnist-5k")
    clear, *ambiguous = choose_inputs(datasets["train"], datasets["val"], 2)
    pairs = [{4, 9}, {3, 5}]
    assert all(int(datasets["val"][place]["digit"]) in pair for place, pair in zip(ambiguous, pairs))
    assert int(datasets["val"][clear]["digit"]) not in {3, 4, 5, 9}
