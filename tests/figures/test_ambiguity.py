import pytest
import torch
from torchvision.transforms import Compose

from cvae.data import CVAEMNIST, MaskImages, ToTensor, get_data
from cvae.figures.ambiguity import choose_inputs
from cvae.images.labelled import LabelledImages


def data(known, digits):
    """Images whose known quadrant is of one grey each."""
    images = torch.zeros(len(known), 28, 28, dtype=torch.uint8)
    images[:, 14:, :14] = torch.tensor(known, dtype=torch.uint8)[:, None, None]
    images[:, :14] = torch.randint(0, 256, (len(known), 14, 28), dtype=torch.uint8)
    source = LabelledImages(images, torch.tensor(digits), "images")
    return CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(1)]), source=source)


def test_clear_inputs_have_neighbours_of_one_label_and_ambiguous_ones_of_two():
    """Grey 50 is always a 1, 100 a 2 or a 3, 150 a 4 or a 5 and 200 a 6 or a 7, the more often the brighter."""
    training = data(
        [50] * 20 + [100] * 20 + [150] * 20 + [200] * 20,
        [1] * 20 + [2] * 13 + [3] * 7 + [4] * 11 + [5] * 9 + [6] * 10 + [7] * 10,
    )
    images = data([200, 100, 50, 150, 150, 150, 200, 100, 49], [9, 3, 1, 5, 4, 8, 7, 2, 0])
    clear, *ambiguous = choose_inputs(training, images, 3)
    assert clear == 2  # the only one with its own label all around it
    assert set(ambiguous) == {1, 3, 6}  # of each pair the most even, the first one
    # two ambiguous images each, before the one of 6 or 7
    assert choose_inputs(training, images, 2)[1:] == [1, 3]
    assert choose_inputs(training, images, 5) == [2, 1, 3, 6, 0, 4]  # filled up


def test_missing_pixels_do_not_matter():
    training = data(list(range(0, 200, 2)), [i % 5 for i in range(100)])
    images = data(list(range(0, 100, 3)), [i % 5 for i in range(34)])
    chosen = choose_inputs(training, images, 3)
    for each in (training, images):
        each.original.images[:, :14] = 7
        each.original.images[:, 14:, 14:] = 99
    assert choose_inputs(training, images, 3) == chosen


@pytest.mark.parametrize("images", [1, 3, 40])
def test_without_labels_the_first_images_are_taken(random_digits, images):
    random_digits.digits[:] = 0
    source = random_digits.select(range(images))
    dataset = CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(2)]), source=source)
    assert choose_inputs(dataset, dataset, 4) == list(range(min(5, images)))


@pytest.mark.parametrize("labels", [[-3, 10**12], [0.0] * 2])
def test_any_numbers_are_labels(labels):
    images = data([10, 20], [int(label) for label in labels])
    assert choose_inputs(images, images, 1) == [0, 1]


def test_real_digits_are_told_apart_as_people_would():
    datasets, _, _ = get_data(1, 100, dataset="mnist-5k")
    clear, *ambiguous = choose_inputs(datasets["train"], datasets["val"], 2)
    pairs = [{4, 9}, {3, 5}]
    assert all(
        int(datasets["val"][index]["digit"]) in pair for index, pair in zip(ambiguous, pairs)
    )
    assert int(datasets["val"][clear]["digit"]) not in {3, 4, 5, 9}
