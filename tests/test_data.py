import math
from itertools import chain
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler
from torchvision.transforms import Compose

from cvae.data import CVAEMNIST, MaskImages, ToTensor, get_data, make_loader, shard, shift_images
from cvae.datasets import Images
from cvae.evaluate import evaluate
from cvae.files import UsageError
from cvae.model import CVAE


@pytest.fixture
def random_digits(monkeypatch) -> Images:
    """40 images of random grey pixels, which pass for both the training and the test images."""
    images = torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8)
    images[0], images[1] = 0, 255
    digits = Images(images, torch.arange(40) % 10, "MNIST training set")
    test = Images(images, digits.digits, "MNIST test set")
    monkeypatch.setattr("cvae.data.load_images", lambda *_, **__: {"train": digits, "test": test})
    return digits


def make_dataset(source, num=2):
    return CVAEMNIST("", transform=Compose([ToTensor(), MaskImages(num)]), source=source)


def known_pixels(num):
    rows, columns = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    left, bottom = columns < 14, rows >= 14
    return {1: left & bottom, 2: left, 3: ~(~left & bottom)}[num]


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("batch_shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("mask_with", [-1, 0, 0.5, float("inf")])
def test_masks_are_complementary_quadrants(num, batch_shape, mask_with):
    image = torch.rand(*batch_shape, 1, 28, 28)
    image[..., :10, :10] = 0.5  # pixels that equal a mask value are pixels all the same
    image[..., 18:, :] = 0
    masked = MaskImages(num, mask_with=mask_with)({"original": image})
    known = known_pixels(num)
    assert masked["input"].shape == masked["output"].shape == (*batch_shape, 28, 28)
    assert (masked["input"][..., ~known] == mask_with).all()
    assert (masked["output"][..., known] == mask_with).all()
    whole = torch.where(known, masked["input"], masked["output"])
    assert torch.equal(whole, image.squeeze(-3))


@pytest.mark.parametrize("num", [1, 2, 3])
def test_shifted_batch_is_the_batch_moved(num):
    """By up to so many pixels either way, every way in turn, with zeros from outside."""
    images = torch.rand(200, 6, 10)
    batch = MaskImages(num)({"original": images})
    xs, ys = shift_images(batch["input"], batch["output"], 1)
    assert torch.equal(xs == -1, batch["input"] == -1)
    assert torch.equal(ys == -1, batch["output"] == -1)
    padded, ways = F.pad(images, [1] * 4), set()
    for row, image in enumerate(torch.where(xs == -1, ys, xs)):
        fits = [
            (down, across)
            for down in range(3)
            for across in range(3)
            if torch.equal(image, padded[row, down : down + 6, across : across + 10])
        ]
        ways |= set(fits)
        assert len(fits) == 1
    assert len(ways) == 9


def test_shift_by_no_pixel_changes_nothing():
    batch = MaskImages(2)({"original": torch.rand(3, 4, 4)})
    xs, ys = shift_images(batch["input"], batch["output"], 0)
    assert torch.equal(xs, batch["input"]) and torch.equal(ys, batch["output"])


@pytest.mark.parametrize("transform", [ToTensor(), MaskImages(2)])
def test_transforms_leave_the_callers_dict_alone(transform):
    sample = {"original": torch.rand(4, 1, 28, 28), "digit": torch.zeros(4)}
    before = {key: (value, value.clone()) for key, value in sample.items()}
    transform(sample)
    assert sample.keys() == before.keys()
    for key, (value, copy) in before.items():
        assert sample[key] is value and torch.equal(value, copy)


PIXELS = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
@pytest.mark.parametrize("batch_shape", [(), (4,), (2, 2), (0,)])
def test_to_tensor_adds_the_channel_to_arrays_and_tensors(kind, dtype, batch_shape):
    pixels = PIXELS[: int(np.prod(batch_shape))].reshape(*batch_shape, 8, 8)
    given = pixels if dtype == np.uint8 else (pixels / 255).astype(dtype)
    sample = ToTensor()({"original": kind(given), "digit": np.full(batch_shape, 3)})
    assert sample["original"].shape == (*batch_shape, 1, 8, 8)
    assert sample["original"].dtype == torch.float32
    assert torch.allclose(sample["original"].squeeze(-3), torch.tensor(pixels) / 255, atol=1e-3)
    assert sample["digit"].dtype == torch.int64 and (sample["digit"] == 3).all()


def test_to_tensor_takes_images_and_views():
    for original in (Image.fromarray(PIXELS[1]), PIXELS[1, ::-1, ::-1][::-1, ::-1]):
        sample = ToTensor()({"original": original, "digit": 3})
        assert torch.equal(sample["original"], torch.as_tensor(PIXELS[1:2]) / 255)
    bits = Image.fromarray(PIXELS[0] % 2 * 255).convert("1")
    assert torch.equal(
        ToTensor()({"original": bits, "digit": 3})["original"],
        torch.as_tensor(PIXELS[:1] % 2).float(),
    )


@pytest.mark.parametrize(
    "original, error, complaint",
    [
        (Image.new("RGB", (8, 8)), ValueError, "one channel .*not RGB"),
        (Image.new("I", (8, 8)), ValueError, "one channel .*not I"),
        (PIXELS.astype(np.int64), TypeError, "uint8 or floats in .0, 1., not torch.int64"),
        (PIXELS[0, 0], ValueError, r"shape \(\*batch, h, w\), not \(8,\)"),
        (PIXELS.astype(float), ValueError, "floats in .0, 1.: divide"),
        (torch.full((8, 8), float("nan")), ValueError, "floats in .0, 1.: divide"),
        (torch.full((8, 8), -0.1), ValueError, "floats in .0, 1.: divide"),
    ],
)
def test_to_tensor_refuses_the_rest(original, error, complaint):
    with pytest.raises(error, match=complaint):
        ToTensor()({"original": original, "digit": 3})


MASK = torch.arange(40) % 15 == 2


@pytest.mark.parametrize(
    "item, expected",
    [
        *[(item, 3) for item in (3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3))],
        *[(-1, 39), (torch.tensor(-40, dtype=torch.int32), 0)],
        *[(slice(-2, None), [38, 39]), (slice(0), []), (range(30, 10, -7), [30, 23, 16])],
        *[([-1, 0], [39, 0]), ([], []), ([torch.tensor(5), torch.tensor(2)], [5, 2])],
        (torch.tensor([9, -2, 9]), [9, 38, 9]),
        (torch.tensor([[1, 2], [3, -4]]), [[1, 2], [3, 36]]),
        *[(np.array([1, -1]), [1, 39]), (np.array([1, 2], np.uint8), [1, 2])],
        *[(mask, [2, 17, 32]) for mask in (MASK, MASK.numpy(), MASK.tolist())],
        (torch.zeros(40, dtype=torch.bool), []),
    ],
)
def test_indices_mean_what_they_mean_to_a_tensor(random_digits, item, expected):
    batch = make_dataset(random_digits, 3)[item]
    rows = torch.tensor(expected, dtype=torch.int64)
    assert torch.equal(batch["original"], random_digits.images[rows].unsqueeze(-3) / 255)
    assert torch.equal(batch["digit"], rows % 10)
    assert batch["input"].shape == batch["output"].shape == (*rows.shape, 28, 28)
    assert set(batch) == {"original", "digit", "input", "output"}  # as in the tutorial


def test_samplers_of_tensors_give_single_samples(random_digits):
    dataset, order = make_dataset(random_digits), torch.randperm(40)
    loaders = [
        DataLoader(Subset(dataset, order.tolist()), 16),
        DataLoader(Subset(dataset, order), 16),  # type: ignore[arg-type]
        make_loader(Subset(dataset, order), 16),  # type: ignore[arg-type]
        DataLoader(dataset, 16, sampler=SubsetRandomSampler(order)),  # type: ignore[arg-type]
    ]
    for loader in loaders:
        digits = torch.cat([batch["digit"] for batch in loader])
        assert sorted(digits.tolist()) == sorted(random_digits.digits.tolist())


@pytest.mark.parametrize(
    "item", [40, -41, torch.tensor(40), [0, 40], np.array([-41]), MASK[1:], 1.5, [0.5]]
)
def test_indices_out_of_range_are_refused(random_digits, item):
    with pytest.raises(IndexError):
        make_dataset(random_digits)[item]


@pytest.mark.parametrize("indices", [range(40), [5, 3, 39]])
def test_any_loader_makes_the_same_batches(random_digits, indices):
    """The tutorial's loader, with PyTorch's own collation, and ours, of a subset."""
    subset = Subset(make_dataset(random_digits), list(indices))
    tutorials = DataLoader(subset, batch_size=16, shuffle=False, num_workers=0)
    for theirs, ours in zip(tutorials, make_loader(subset, 16), strict=True):
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], value) for key, value in ours.items())


def test_shuffled_order_is_new_each_epoch_and_follows_the_seed(random_digits):
    def orders(seed):
        torch.manual_seed(seed)
        loader = make_loader(CVAEMNIST("", source=random_digits), 40, shuffle=True)
        return [next(iter(loader))["digit"].tolist() for _ in range(2)]

    assert orders(1) == orders(1) != orders(2)
    assert orders(1)[0] != orders(1)[1]
    assert sorted(orders(1)[0]) == sorted(random_digits.digits.tolist())


def test_get_data_returns_what_the_tutorial_returns(random_digits):
    datasets, dataloaders, dataset_sizes = get_data(2, 16, dataset="mnist")
    assert dataset_sizes == {"train": 40, "val": 40}
    assert list(datasets) == list(dataloaders) == ["train", "val"]
    assert [len(batch["input"]) for batch in dataloaders["train"]] == [16, 16, 8]
    in_order = torch.cat([batch["digit"] for batch in dataloaders["val"]])
    assert torch.equal(in_order, random_digits.digits)


def test_subset_has_the_first_images_and_is_named_so(random_digits):
    datasets, _, sizes = get_data(1, 8, dataset="mnist", subset=7)
    assert sizes == {"train": 7, "val": 7}
    assert torch.equal(datasets["train"].source.images, random_digits.images[:7])
    assert datasets["train"].name == "first 7 of the MNIST training set"
    assert get_data(1, 8, dataset="mnist", subset=999)[0]["val"].name == "MNIST test set"


def test_holdout_validates_with_the_last_training_images(random_digits):
    datasets, dataloaders, sizes = get_data(1, 8, dataset="mnist", holdout=10)
    assert sizes == {"train": 30, "val": 10, "test": 40} and list(dataloaders) == list(sizes)
    assert torch.equal(datasets["train"].source.images, random_digits.images[:30])
    assert torch.equal(datasets["val"].source.digits, random_digits.digits[30:])
    assert datasets["val"].name == "images 31 to 40 of the MNIST training set"
    assert datasets["test"].name == "MNIST test set"
    few = get_data(1, 8, dataset="mnist", holdout=10, subset=3)[0]["val"]
    assert len(few) == 3 and few.name == "images 31 to 33 of the MNIST training set"


@pytest.mark.parametrize(
    "name, value",
    [
        *[("batch_size", 0), ("val_batch_size", 0), ("subset", 0), ("holdout", -1)],
        *[("val_fraction", 0), ("val_fraction", 1), ("mask_with", 0.5), ("mask_with", math.nan)],
    ],
)
def test_arguments_out_of_range_are_named(random_digits, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, not {value}$"):
        get_data(**{"num_quadrant_inputs": 1, "batch_size": 8, "dataset": "mnist", name: value})


def test_binarized_pixels_are_black_or_white(random_digits):
    datasets, _, _ = get_data(1, 8, dataset="mnist", binarize=True)
    expected = (random_digits.images / 255 >= 0.5).float()
    assert torch.equal(datasets["train"][:]["original"].squeeze(1), expected)
    assert datasets["train"].name == "MNIST training set, binarized"


@pytest.mark.parametrize("world_size", [1, 3, 7, 40])
def test_shards_together_are_the_whole_and_nearly_equal(random_digits, world_size):
    dataset = make_dataset(random_digits)
    shards = [shard(dataset, rank, world_size) for rank in range(world_size)]
    assert list(chain.from_iterable(part.indices for part in shards)) == list(range(40))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.fixture
def each_rank(random_digits, monkeypatch):
    """Call ``get_data`` as one process of several after the other, for two known quadrants."""

    def results(world_size, **options):
        monkeypatch.setattr("cvae.distributed.world_size", lambda: world_size)
        for rank in range(world_size):
            monkeypatch.setattr("cvae.distributed.rank", lambda rank=rank: rank)
            yield get_data(2, 8, dataset="mnist", **options)

    return results


def test_processes_validate_with_their_shards(each_rank):
    ranks = list(each_rank(2, val_batch_size=15, holdout=10))
    for split in ("val", "test"):
        batches = chain.from_iterable(dataloaders[split] for _, dataloaders, _ in ranks)
        whole = torch.cat([batch["original"] for batch in batches])
        assert torch.equal(whole, ranks[0][0][split][:]["original"])
    assert [len(batch["digit"]) for batch in ranks[0][1]["test"]] == [15, 5]
    assert ranks[0][2] == ranks[1][2] == {"train": 30, "val": 10, "test": 40}


def test_processes_train_with_equal_numbers_of_every_batch(each_rank):
    def batches(seed, epoch):
        loaders = []
        for _, dataloaders, _ in each_rank(2, seed=seed):
            dataloaders["train"].sampler.sampler.set_epoch(epoch)
            loaders.append([batch["original"] for batch in dataloaders["train"]])
        assert all([len(batch) for batch in loader] == [4] * 5 for loader in loaders)
        return torch.cat(list(chain.from_iterable(loaders))).view(40, -1)

    one, two = batches(3, 1), batches(3, 2)
    assert torch.equal(one, batches(3, 1))
    assert not torch.equal(one, two) and not torch.equal(one, batches(4, 1))
    assert torch.equal(one.unique(dim=0), two.unique(dim=0)) and len(one.unique(dim=0)) == 40


@pytest.mark.parametrize(
    "world_size, holdout, complaint",
    [
        (1, 40, "--holdout 40 leaves none of 40"),
        (3, 0, "--batch-size 8 can't be divided among 3 processes"),
        (2, 1, r"more processes \(2\) than val images \(1\)"),
    ],
)
def test_what_cannot_be_done_is_refused(each_rank, world_size, holdout, complaint):
    with pytest.raises(UsageError, match=complaint):
        list(each_rank(world_size, holdout=holdout))


class RandomMasks:
    """Another mask for each image, of half of its pixels, by whichever random numbers."""

    def __init__(self, rand):
        self.rand = rand

    def __call__(self, sample):
        image = sample["original"].squeeze(-3)
        known = torch.as_tensor(self.rand(*image.shape)) < 0.5
        return sample | {"input": image.where(known, -1), "output": image.where(~known, -1)}


@pytest.mark.parametrize("rand", [torch.rand, np.random.rand])
def test_images_that_are_not_trained_on_keep_a_mask_of_ones_own(random_digits, rand):
    """In every pass and whatever the seed, as a whole or in shards; training draws anew."""
    found = []
    for seed in (1, 2):
        pyro.set_rng_seed(seed)
        following = rand(1)
        pyro.set_rng_seed(seed)
        options: Any = dict(dataset="mnist", holdout=10, seed=seed)
        datasets, loaders, _ = get_data(None, 8, mask=RandomMasks(rand), **options)
        assert rand(1) == following  # which the masks did not use up
        for split in ("train", "val", "test"):
            batches = [
                torch.cat([b["input"] for b in make_loader(datasets[split], 7)]) for _ in "12"
            ]
            assert torch.equal(*batches) == (split != "train")
        found.append(torch.cat([datasets[split][:]["input"] for split in ("val", "test")]))
        assert torch.equal(
            shard(datasets["val"], 1, 2)[[0]]["input"], datasets["val"][[5]]["input"]
        )
        assert next(iter(loaders["train"]))["input"].shape == (8, 28, 28)
        with pytest.raises(UsageError, match="another mask at each access"):
            evaluate(CVAE(3, 16, 12), datasets["train"])
    assert torch.equal(*found)
    masks = (found[0].flatten(1) == -1)[10:]  # of the test images
    assert len(masks.unique(dim=0)) == len(masks) == 40


def hide_with_zero(sample):
    image = sample["original"].squeeze(-3)
    return sample | {"input": image * 0, "output": image}


def standardise(sample):
    sample = MaskImages(1)(sample)
    return sample | {"output": sample["output"] * 3 - 1}


@pytest.mark.parametrize(
    "number, mask, complaint",
    [
        (1, RandomMasks(torch.rand), "give num_quadrant_inputs .1, 2 or 3., or a mask"),
        (None, None, "give num_quadrant_inputs .1, 2 or 3., or a mask"),
        (None, hide_with_zero, "mask's input must have .* one other value .*, not 0"),
        (None, standardise, "mask's output must have pixels in .0, 1., and one other value"),
    ],
)
def test_masks_that_hide_nothing_or_change_pixels_are_refused(number, mask, complaint):
    with pytest.raises(ValueError, match=complaint):
        get_data(number, 8, mask=mask, dataset="mnist-5k", subset=20)
