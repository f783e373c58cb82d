"""Which inputs are worth animating, what is drawn after an epoch, and the animation of it."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import Compose

from cvae import datasets
from cvae.baseline import BaselineNet
from cvae.data import CVAEMNIST, MaskImages, ToTensor
from cvae.experiment import pictures
from cvae.experiment.animation import make_gif, take_snapshot
from cvae.experiment.pictures import choose_inputs
from cvae.history import History
from cvae.model import CVAE


class Images(CVAEMNIST):
    """A data set of images whose lower left quadrant, the known one, is of one grey each."""

    def __init__(self, greys, digits):
        images = torch.randint(256, (len(greys), 28, 28), dtype=torch.uint8)
        images[:, 14:, :14] = torch.tensor(greys)[:, None, None]
        source = datasets.Images(images, torch.tensor(digits), "images")
        super().__init__("", transform=Compose([ToTensor(), MaskImages(1)]), source=source)


class LargestTensor(TorchDispatchMode):
    """Measures the largest tensor that is computed."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


def test_clear_inputs_have_neighbours_of_one_label_and_ambiguous_ones_of_two():
    """Grey 50 is a 1, 100 a 2 or 3, 150 a 4 or 5, 200 a 6 or 7, the more evenly the brighter."""
    training = Images(
        [50] * 20 + [100] * 20 + [150] * 20 + [200] * 20,
        [1] * 20 + [2] * 13 + [3] * 7 + [4] * 11 + [5] * 9 + [6] * 10 + [7] * 10,
    )
    images = Images([200, 100, 50, 150, 150, 150, 200, 100, 49], [9, 3, 1, 5, 4, 8, 7, 2, 0])
    clear, *ambiguous = choose_inputs(training, images, 3)
    assert clear == 2  # the only one whose neighbours all have its own label
    assert set(ambiguous) == {1, 3, 6}  # the first one of each pair
    assert choose_inputs(training, images, 2) == [2, 1, 3]  # two images each; of 6 or 7, one
    assert choose_inputs(training, images, 5) == [2, 1, 3, 6, 0, 4]  # filled up


def test_of_a_pair_of_labels_the_most_even_input_is_chosen():
    training = Images([50] * 20 + [100] * 20, [1] * 14 + [2] * 6 + [1] * 10 + [2] * 10)
    assert choose_inputs(training, Images([50, 50, 100, 100], [1, 2, 2, 1]), 1) == [2, 0]


def test_clear_input_is_of_a_label_that_no_ambiguous_one_has():
    training = Images([50] * 20 + [100] * 20 + [150] * 20, [1] * 20 + [2] * 20 + [1, 3] * 10)
    images = Images([50, 100, 150], [1, 2, 3])
    assert choose_inputs(training, images, 1) == [1, 2]
    assert choose_inputs(training, images, 0) == [0]


def test_missing_pixels_do_not_matter():
    training = Images(list(range(0, 200, 2)), [i % 5 for i in range(100)])
    images = Images(list(range(0, 100, 3)), [i % 5 for i in range(34)])
    chosen = choose_inputs(training, images, 3)
    for each in (training, images):
        each.source.images[:, :14] = 25
        each.source.images[..., 14:] = 230
    assert choose_inputs(training, images, 3) == chosen


def test_choice_is_made_in_chunks_that_bound_memory(monkeypatch):
    images = Images([i % 251 for i in range(1500)], [i % 7 for i in range(1500)])
    with LargestTensor() as largest:
        chosen = choose_inputs(images, images, 3)
    assert largest.bytes <= 3 * images.source.images.nbytes
    monkeypatch.setattr(pictures, "IMAGES_AT_ONCE", 2000)
    assert choose_inputs(images, images, 3) == chosen


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("label", [0, -3, 10**12])
def test_where_all_labels_are_the_same_the_first_images_are_taken(count, label):
    images = Images(list(range(count)), [label] * count)
    assert choose_inputs(images, images, 4) == list(range(min(5, count)))


@pytest.fixture
def small_cvae():
    return CVAE(3, 16, 12, BaselineNet(16, 12))


def test_snapshots_depend_on_seed_and_epoch_and_leave_the_random_state(small_cvae):
    inputs = Images([50, 200], [1, 2])[:]["input"]

    def state():
        return [*torch.get_rng_state(), str(random.getstate()), str(np.random.get_state())]

    before = state()
    first = take_snapshot(small_cvae, inputs, 3, seed=0, epoch=1)
    assert state() == before
    assert first.shape == (3, 2, 28, 28) and first.dtype == torch.uint8
    torch.manual_seed(77)
    assert torch.equal(take_snapshot(small_cvae, inputs, 3, seed=0, epoch=1), first)
    assert not torch.equal(take_snapshot(small_cvae, inputs, 3, seed=0, epoch=2), first)
    assert not torch.equal(take_snapshot(small_cvae, inputs, 3, seed=1, epoch=1), first)


def test_snapshots_are_probabilities_in_255ths(small_cvae):
    with torch.no_grad():
        small_cvae.generation_net.fc3.weight.zero_()
        small_cvae.generation_net.fc3.bias.fill_(torch.logit(torch.tensor(0.25)))
    assert (take_snapshot(small_cvae, Images([50], [1])[:]["input"], 2, 0, 1) == 64).all()


def gif(images=3, size=(28, 28), snapshots=3, title="title", epochs=3):
    """Completions of black images: of each epoch one in black and one in white."""
    known = torch.zeros(size, dtype=torch.bool)
    known[size[0] // 2 :, : size[1] // 2] = True
    black = torch.zeros(1, images, *size, dtype=torch.uint8)
    drawn = [torch.cat([black, 255 - black])] * snapshots
    losses = [{"val": loss, "objective": 1} for loss in (30.0, 20.0, 25.0)[:epochs]]
    return make_gif(History(losses), drawn, torch.zeros(images, *size), known, title)


@pytest.mark.parametrize("title", ["short", "words " * 40])
@pytest.mark.parametrize("images, size, epochs", [(3, (28, 28), 3), (1, (28, 20), 1)])
def test_frames_show_each_sample_of_each_epoch(images, size, epochs, title):
    with Image.open(io.BytesIO(gif(images, size, epochs, title, epochs))) as picture:
        assert picture.format == "GIF" and picture.info["loop"] == 0
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(picture)]
    assert len(frames) == 2 * epochs
    scale = round(84 / max(size))
    for black, white in zip(frames[::2], frames[1::2], strict=True):
        changed = abs(white.astype(int) - black) > 200
        assert changed.sum() == images * size[0] * size[1] * scale**2 * 3 / 4  # the missing pixels
    assert len({frame[:240].tobytes() for frame in frames[::2]}) == epochs  # headings and curves


def test_animation_has_the_same_bytes_every_time_and_one_snapshot_an_epoch():
    assert gif() == gif()
    with pytest.raises(ValueError):
        gif(snapshots=2)
