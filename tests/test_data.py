import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, StackDataset, Subset
from torchvision.transforms import Compose

from cvae.data import CVAEMNIST, MaskImages, ToTensor, get_data, setting_name
from cvae.errors import UsageError
from cvae.images.loader import make_loader

# (rows, columns) that are known, for each number of quadrants
KNOWN = {
    1: [(slice(14, None), slice(None, 14))],
    2: [(slice(None), slice(None, 14))],
    3: [(slice(None), slice(None, 14)), (slice(None, 14), slice(14, None))],
}


def known_mask(num):
    mask = torch.zeros(28, 28, dtype=torch.bool)
    for place in KNOWN[num]:
        mask[place] = True
    return mask


def image_sample(*batch_shape):
    return {"original": torch.rand(*batch_shape, 1, 28, 28), "digit": torch.zeros(batch_shape)}


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("batch_shape", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("mask_with", [-1, 0, 0.5, 1, -7.5, float("inf")])
def test_masks_are_complementary_quadrants(num, batch_shape, mask_with):
    sample = image_sample(*batch_shape)
    sample["original"][..., :10, :10] = 0.5  # pixels that equal a mask value are pixels all the same
    sample["original"][..., 18:, :] = 0
    masked = MaskImages(num, mask_with=mask_with)(sample)
    known, image = known_mask(num), sample["original"].squeeze(-3)
    assert masked["input"].shape == masked["output"].shape == (*batch_shape, 28, 28)
    assert (masked["input"][..., ~known] == mask_with).all()
    assert (masked["output"][..., known] == mask_with).all()
    assert torch.equal(torch.where(known, masked["input"], masked["output"]), image)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_known_pixels_are_as_many_as_the_quadrants_have(num):
    assert (MaskImages(num)(image_sample())["input"] != -1).sum() == num * 196


@pytest.mark.parametrize("num", [-1, 0, 4, 1.5])
def test_other_numbers_of_quadrants_are_refused(num):
    with pytest.raises(ValueError, match="must be 1, 2 or 3"):
        MaskImages(num)


def test_masking_needs_floats():
    with pytest.raises(TypeError, match="ToTensor"):
        MaskImages(1)({"original": torch.zeros(1, 28, 28, dtype=torch.uint8)})


@pytest.mark.parametrize("transform", [ToTensor(), MaskImages(2)])
def test_transforms_leave_the_callers_dict_alone(transform):
    sample = image_sample(4)
    before = {key: (value, value.clone()) for key, value in sample.items()}
    assert transform(sample) is not sample
    assert sample.keys() == before.keys()
    assert all(sample[key] is value and torch.equal(value, copy) for key, (value, copy) in before.items())


PIXELS = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
BITS = Image.fromarray(PIXELS[0] % 2 * 255).convert("1")


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("batch_shape", [(), (1,), (4,), (2, 2), (0,)])
def test_to_tensor_adds_the_channel_to_arrays_and_tensors(kind, dtype, batch_shape):
    pixels = PIXELS[: int(np.prod(batch_shape))].reshape(*batch_shape, 8, 8)
    given = pixels if dtype == np.uint8 else (pixels / 255).astype(dtype)
    sample = ToTensor()({"original": kind(given), "digit": np.full(batch_shape, 3)})
    assert sample["original"].shape == (*batch_shape, 1, 8, 8) and sample["original"].dtype == torch.float32
    assert torch.allclose(sample["original"].squeeze(-3), torch.tensor(pixels) / 255, atol=1e-3)
    assert sample["digit"].dtype == torch.int64 and (sample["digit"] == 3).all()


@pytest.mark.parametrize(
    "original, expected",
    [
        (Image.fromarray(PIXELS[1]), PIXELS[1]),
        (BITS, PIXELS[0] % 2 * 255),
        (PIXELS[1, ::-1], PIXELS[1, ::-1].copy()),
        (np.broadcast_to(PIXELS[1, 0], (8, 8)), np.tile(PIXELS[1, 0], (8, 1))),  # read-only
    ],
)
def test_to_tensor_takes_images_and_views(original, expected):
    sample = ToTensor()({"original": original, "digit": 3})
    assert torch.equal(sample["original"], torch.as_tensor(expected)[None] / 255)
    assert sample["digit"].dtype == torch.int64 and sample["digit"].item() == 3


@pytest.mark.parametrize(
    "original, error, complaint",
    [
        (Image.new("RGB", (8, 8)), ValueError, "one channel .*not RGB"),
        (Image.new("P", (8, 8)), ValueError, "one channel .*not P"),
        (Image.new("I", (8, 8)), ValueError, "one channel .*not I"),
        (PIXELS.astype(np.int64), TypeError, "uint8 or floats in .0, 1., not torch.int64"),
        (torch.zeros(8, 8, dtype=torch.bool), TypeError, "uint8 or floats in .0, 1., not torch.bool"),
        (PIXELS[0, 0], ValueError, r"shape \(\*batch, h, w\), not \(8,\)"),
        (torch.tensor(0.5), ValueError, r"shape \(\*batch, h, w\), not \(\)"),
        (PIXELS.astype(float), ValueError, "floats in .0, 1.: divide"),
        (torch.full((8, 8), float("nan")), ValueError, "floats in .0, 1.: divide"),
        (torch.full((8, 8), -0.1), ValueError, "floats in .0, 1.: divide"),
    ],
)
def test_to_tensor_refuses_the_rest(original, error, complaint):
    with pytest.raises(error, match=complaint):
        ToTensor()({"original": original, "digit": 3})


def test_sample_has_the_tutorials_keys_and_shapes(random_digits):
    dataset = CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(1)]))
    sample = dataset[3]
    assert set(sample) == {"original", "digit", "input", "output"}
    assert sample["original"].shape == (1, 28, 28) and sample["original"].dtype == torch.float32
    assert sample["input"].shape == sample["output"].shape == (28, 28)
    assert sample["digit"].item() == 3 and sample["digit"].dtype == torch.int64
    assert torch.equal(sample["original"], random_digits.images[3:4] / 255)


@pytest.mark.parametrize(
    "items, expected",
    [
        ([4, 0, 31], [4, 0, 31]),
        ([5], [5]),
        (range(9), range(9)),
        (range(30, 10, -7), [30, 23, 16]),
        (torch.tensor([39, 2, 2]), [39, 2, 2]),
        (slice(9), range(9)),
        (slice(-3, None), [37, 38, 39]),
    ],
)
def test_batch_is_the_stack_of_its_samples(random_digits, items, expected):
    dataset = CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(3)]))
    dataset.cache_baseline_predictions(lambda inputs: inputs + 2)
    batch = dataset[items]
    assert set(batch) == {"original", "digit", "input", "output", "y_hat"}
    for key, value in batch.items():
        assert torch.equal(value, torch.stack([dataset[item][key] for item in expected])), key


def test_cached_baseline_predictions_are_those_of_every_input(random_digits, monkeypatch):
    monkeypatch.setattr("cvae.data.VALIDATION_BATCH_SIZE", 15)
    dataset = CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(3)]))
    assert dataset.baseline_predictions is None and "y_hat" not in dataset[0]
    sizes = []

    def predict(inputs):
        sizes.append(len(inputs))
        return inputs + 2

    dataset.cache_baseline_predictions(predict)
    assert sizes == [15, 15, 10] and dataset.baseline_predictions.shape == (40, 28, 28)  # type: ignore[attr-defined]
    assert torch.equal(dataset[:]["y_hat"], dataset[:]["input"] + 2)


@pytest.mark.parametrize("indices", [range(40), [5, 3, 39]])
def test_any_loader_makes_the_same_batches(random_digits, indices):
    """The tutorial's loader, with PyTorch's own collation, and ours give the same, of subsets too."""
    dataset = CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(2)]))
    subset = Subset(dataset, list(indices))
    tutorials = list(DataLoader(subset, batch_size=16, shuffle=False, num_workers=0))
    ours = list(make_loader(subset, 16))
    assert len(tutorials) == len(ours)
    for theirs, batch in zip(tutorials, ours):
        assert theirs.keys() == batch.keys()
        assert all(torch.equal(theirs[key], value) for key, value in batch.items())


def test_loader_of_a_subset_makes_batches_of_its_images_in_order(random_digits):
    dataset = CVAEMNIST("nowhere", transform=Compose([ToTensor(), MaskImages(2)]))
    batches = list(make_loader(Subset(dataset, range(10, 25)), 6))
    assert [len(batch["digit"]) for batch in batches] == [6, 6, 3]
    for key, expected in dataset[10:25].items():
        assert torch.equal(torch.cat([batch[key] for batch in batches]), expected), key


def test_loader_of_stacked_tensors_makes_batches_of_them_in_order():
    tensors = {"input": torch.rand(7, 28, 28), "output": torch.rand(7, 28, 28)}
    batches = list(make_loader(StackDataset(**tensors), 3))  # type: ignore[arg-type]
    assert [len(batch["input"]) for batch in batches] == [3, 3, 1]
    for key, expected in tensors.items():
        assert torch.equal(torch.cat([batch[key] for batch in batches]), expected), key


def test_subset_has_the_first_images_and_is_named_so(random_digits):
    datasets, _, sizes = get_data(1, 8, dataset="mnist", subset=7)
    assert sizes == {"train": 7, "val": 7}
    assert torch.equal(datasets["train"].original.images, random_digits.images[:7])
    assert datasets["train"].name == "first 7 of the MNIST training set"
    assert get_data(1, 8, dataset="mnist", subset=999)[0]["val"].name == "MNIST test set"


def test_holdout_validates_with_the_last_training_images_and_leaves_the_test_images(random_digits):
    datasets, dataloaders, sizes = get_data(1, 8, dataset="mnist", holdout=10)
    assert sizes == {"train": 30, "val": 10, "test": 40} and list(dataloaders) == list(sizes)
    assert torch.equal(datasets["train"].original.images, random_digits.images[:30])
    assert torch.equal(datasets["val"].original.digits, random_digits.digits[30:])
    assert datasets["val"].name == "images 31 to 40 of the MNIST training set"
    assert datasets["test"].name == "MNIST test set"
    in_order = torch.cat([batch["digit"] for batch in dataloaders["val"]])
    assert torch.equal(in_order, random_digits.digits[30:])
    assert get_data(1, 8, dataset="mnist", holdout=10, subset=3)[2] == {"train": 3, "val": 3, "test": 3}


@pytest.mark.parametrize("holdout", [40, 41])
def test_holdout_of_everything_is_refused(random_digits, holdout):
    with pytest.raises(UsageError, match=f"--holdout {holdout} leaves no image"):
        get_data(1, 8, dataset="mnist", holdout=holdout)


@pytest.mark.parametrize(
    "name, values",
    [
        ("batch_size", [0, -1]),
        ("val_batch_size", [0, -1]),
        ("val_fraction", [0, 1, -0.5, 1.5, float("nan")]),
        ("subset", [0, -1]),
        ("holdout", [-1, -5]),
        ("mask_with", [0, 0.5, 1, float("nan")]),
    ],
)
def test_arguments_out_of_range_are_named(random_digits, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} must be .*, not {value}$"):
            get_data(**{"num_quadrant_inputs": 1, "batch_size": 8, "dataset": "mnist", name: value})


def test_binarized_pixels_are_black_or_white_with_the_threshold_at_one_half(random_digits):
    datasets, _, _ = get_data(1, 8, dataset="mnist", binarize=True)
    grey = random_digits.images / 255
    for split, name in (("train", "MNIST training set, binarized"), ("val", "MNIST test set, binarized")):
        assert torch.equal(datasets[split][:]["original"].squeeze(1), (grey >= 0.5).float())
        assert datasets[split].name == name


def test_get_data_returns_what_the_tutorial_returns(random_digits):
    datasets, dataloaders, dataset_sizes = get_data(2, 16, dataset="mnist")
    assert dataset_sizes == {"train": 40, "val": 40}
    assert list(datasets) == list(dataloaders) == ["train", "val"]
    sizes = [len(batch["input"]) for batch in dataloaders["train"]]
    assert sizes == [16, 16, 8]
    in_order = torch.cat([batch["digit"] for batch in dataloaders["val"]])
    assert torch.equal(in_order, random_digits.digits)


def test_shuffled_order_is_new_each_epoch_and_follows_the_seed(random_digits):
    def orders(seed):
        torch.manual_seed(seed)
        loader = make_loader(CVAEMNIST("nowhere"), 40, shuffle=True)
        return [next(iter(loader))["digit"].tolist() for _ in range(2)]

    assert orders(1) == orders(1) != orders(2)
    assert orders(1)[0] != orders(1)[1]
    assert sorted(orders(1)[0]) == sorted(random_digits.digits.tolist())


@pytest.mark.parametrize("number, name", [(1, "1 quadrant"), (2, "2 quadrants"), (3, "3 quadrants")])
def test_settings_are_named_by_their_known_quadrants(number, name):
    assert setting_name(number) == name
