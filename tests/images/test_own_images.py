import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cvae.data import get_data
from cvae.errors import DataError
from cvae.images.own_images import load_own_images
from cvae.images.sources import load_images

GREY = np.random.default_rng(0).integers(0, 256, (12, 4, 6), dtype=np.uint8)


def save(tmp_path, **arrays):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    return path


def all_of(path, val_fraction=0.25):
    """Both splits, as sets of images."""
    return [load_own_images(path, train, val_fraction).images for train in (True, False)]


def as_set(images):
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("val_fraction, num_val", [(0.25, 3), (0.5, 6), (1e-9, 1), (1 - 1e-9, 11)])
def test_images_are_split_in_two_without_overlap(tmp_path, val_fraction, num_val):
    train, val = all_of(save(tmp_path, images=GREY), val_fraction)
    assert len(val) == num_val and len(train) == 12 - num_val
    assert as_set(train) | as_set(val) == as_set(torch.as_tensor(GREY))
    again = all_of(save(tmp_path, images=GREY), val_fraction)
    assert torch.equal(train, again[0]) and torch.equal(val, again[1])


@pytest.mark.parametrize(
    "images",
    [
        GREY,
        GREY[..., None],
        np.repeat(GREY[..., None], 3, -1),
        np.concatenate([np.repeat(GREY[..., None], 3, -1), GREY[..., None] // 2], -1),
        GREY / 255,
        (GREY / 255).astype(np.float32)[..., None],
        np.repeat(GREY[..., None], 3, -1) / 255,
    ],
)
def test_arrays_of_all_kinds_turn_into_the_same_bytes(tmp_path, images):
    train, val = all_of(save(tmp_path, anything=images))
    assert train.dtype == torch.uint8 and as_set(train) | as_set(val) == as_set(torch.as_tensor(GREY))


def test_labels_stay_with_their_images(tmp_path):
    path = save(tmp_path, images=GREY, labels=GREY[:, 0, 0])
    own = load_own_images(path, True, 0.25)
    assert torch.equal(own.images[:, 0, 0].long(), own.digits)
    assert (load_own_images(save(tmp_path, images=GREY), True, 0.25).digits == 0).all()


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P"])
def test_folder_of_png_files_is_read(tmp_path, by_class, mode):
    for number, image in enumerate(GREY):
        folder = tmp_path / f"class {number % 3}" if by_class else tmp_path
        folder.mkdir(exist_ok=True)
        if mode == "I;16":
            picture = Image.fromarray(image.astype(np.uint16) * 257)
        else:
            picture = Image.fromarray(image).convert(mode)
        picture.save(folder / f"{number:02}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    train, val = all_of(tmp_path)
    assert as_set(train) | as_set(val) == as_set(torch.as_tensor(GREY))
    labels = load_own_images(tmp_path, True, 0.25).digits
    assert set(labels.tolist()) == ({0, 1, 2} if by_class else {0})


@pytest.mark.parametrize(
    "arrays, complaint",
    [
        ({"images": GREY[:, :3]}, "images of 3 x 6 pixels: height and width must be even"),
        ({"images": GREY[:, :0]}, "images of 0 x 6 pixels"),
        ({"images": GREY[0]}, "images of shape .4, 6.: must be"),
        ({"images": GREY[..., None].repeat(2, -1)}, "images of shape .12, 4, 6, 2.: must be"),
        ({"images": GREY[:1]}, "holds too few images .1.: training and validation need one each"),
        ({"images": GREY[:0]}, "holds too few images .0."),
        ({"images": GREY.astype(np.int64)}, "holds int64: must be uint8, or floats"),
        ({"images": GREY.astype(float)}, "floats that are not in .0, 1."),
        ({"images": np.full((3, 2, 2), np.nan)}, "floats that are not in .0, 1."),
        ({"images": GREY / -255}, "floats that are not in .0, 1."),
        ({"images": np.array(["a", "b"])}, "images of shape"),
        ({"images": np.array([{}, {}])}, "holds more than plain arrays; nothing of it was run"),
        ({"a": GREY, "b": GREY}, "holds the arrays a, b: name one of them images"),
        ({}, "holds the arrays none"),
        ({"images": GREY, "labels": GREY}, "labels of shape"),
        ({"images": GREY, "labels": np.array(list("abcdefghijkl"))}, "a number for each image"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(tmp_path, arrays, complaint):
    with pytest.raises(DataError, match=f"images.npz {complaint}|images.npz .*{complaint}") as failure:
        load_own_images(save(tmp_path, **arrays), True, 0.25)
    assert "\n" not in str(failure.value)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def no_array():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images.npy", b"no array")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-50], lambda data: b"", lambda data: flipped(data, 300), lambda data: no_array()],
)
def test_damaged_arrays_are_refused_by_name(tmp_path, damage):
    path = save(tmp_path, images=GREY)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="images.npz (is damaged|can't be read)"):
        load_own_images(path, True, 0.25)


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "05.png can't be read as a PNG file"),
        (lambda path: path.write_text("text"), "05.png can't be read as a PNG file"),
        (lambda path: Image.fromarray(GREY[0].T).save(path), "05.png and .*00.png have 6 x 4 and 4 x 6 pixels"),
        (lambda path: Image.fromarray(GREY[0]).save(path, "GIF"), "05.png can't be read as a PNG file"),
    ],
)
def test_bad_files_in_a_folder_are_named(tmp_path, spoil, complaint):
    for number, image in enumerate(GREY):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    spoil(tmp_path / "05.png")
    with pytest.raises(DataError, match=complaint):
        load_own_images(tmp_path, True, 0.25)


def test_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no PNG file"):
        load_own_images(tmp_path, True, 0.25)


@pytest.mark.parametrize("train, split", [(True, "training"), (False, "validation")])
def test_they_are_loaded_by_path_and_named_after_the_file(tmp_path, train, split):
    path = save(tmp_path, images=GREY)
    own = load_images(str(path), "nowhere", train, download=False, val_fraction=0.25)
    assert own.name == f"images.npz {split} split" and len(own) == (9 if train else 3)
    assert torch.equal(own.images, load_own_images(path, train, 0.25).images)
    assert len(load_images(str(path), "nowhere", train, download=False)) == (10 if train else 2)


def test_a_file_that_is_missing_is_named():
    with pytest.raises(DataError, match="nowhere.npz is missing"):
        load_own_images("nowhere.npz", True, 0.25)


def test_data_sets_are_made_of_them(tmp_path):
    path = save(tmp_path, images=GREY)
    datasets, _, sizes = get_data(1, 4, dataset=str(path), val_fraction=0.5)
    assert sizes == {"train": 6, "val": 6} and datasets["val"][0]["input"].shape == (4, 6)
    assert datasets["train"].name == "images.npz training split"
