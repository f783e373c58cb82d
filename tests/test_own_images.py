import numpy as np
import pytest
import torch
from PIL import Image

from cvae.data import get_data
from cvae.datasets import DataError, load_images
from cvae.own_images import load_own_images

GREY = np.random.default_rng(0).integers(0, 256, (12, 4, 6), dtype=np.uint8)


def save_npz(folder, **arrays):
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def save_png(folder, images=GREY):
    folder.mkdir(exist_ok=True, parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def as_set(*splits):
    return {np.asarray(image).tobytes() for split in splits for image in split}


@pytest.mark.parametrize("val_fraction, num_val", [(0.25, 3), (1e-9, 1), (1 - 1e-9, 11)])
def test_images_are_split_in_two_without_overlap(tmp_path, val_fraction, num_val):
    train, val = load_own_images(save_npz(tmp_path, images=GREY), val_fraction)
    assert len(val) == num_val and len(train) == 12 - num_val
    assert as_set(train.images, val.images) == as_set(GREY)
    again, _ = load_own_images(save_npz(tmp_path, images=GREY), val_fraction)
    assert torch.equal(train.images, again.images)


RGB = np.repeat(GREY[..., None], 3, -1)
OPAQUE = np.full_like(GREY[..., None], 255)


@pytest.mark.parametrize(
    "images", [GREY, GREY[..., None], RGB, np.concatenate([RGB, OPAQUE], -1), GREY / 255, RGB / 255]
)
def test_arrays_of_all_kinds_turn_into_the_same_bytes(tmp_path, images):
    train, val = load_own_images(save_npz(tmp_path, anything=images), 0.25)
    assert train.images.dtype == torch.uint8
    assert as_set(train.images, val.images) == as_set(GREY)


@pytest.mark.parametrize("dtype", [np.uint8, ">i4", np.uint64, np.float64])
def test_labels_stay_with_their_images(tmp_path, dtype):
    labels = GREY[:, 0, 0].astype(dtype)
    for own in load_own_images(save_npz(tmp_path, images=GREY, labels=labels), 0.25):
        assert torch.equal(own.images[:, 0, 0].long(), own.digits)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P"])
def test_folder_of_png_files_is_read(tmp_path, by_class, mode):
    for number, image in enumerate(GREY):
        folder = tmp_path / f"class {number % 3}" if by_class else tmp_path
        folder.mkdir(exist_ok=True)
        sixteen_bits = Image.fromarray(image.astype(np.uint16) * 257)
        picture = sixteen_bits if mode == "I;16" else Image.fromarray(image).convert(mode)
        picture.save(folder / f"{number:02}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._0.png").write_bytes(b"of macOS")
    save_png(tmp_path / ".ipynb_checkpoints")
    train, val = load_own_images(tmp_path, 0.25)
    assert len(train) + len(val) == 12 and as_set(train.images, val.images) == as_set(GREY)
    assert set(train.digits.tolist()) == ({0, 1, 2} if by_class else {0})


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("kind", ["array", "RGBA", "LA", "P"])
def test_what_is_transparent_turns_black(tmp_path, kind, alpha):
    pixels = np.full((4, 4, 6, 4), 255, np.uint8)
    pixels[:, :, :3, 3] = alpha
    path = tmp_path if kind != "array" else save_npz(tmp_path, images=pixels)
    for number, image in enumerate(pixels if kind != "array" else []):
        picture = Image.fromarray(image)
        picture = picture.quantize() if kind == "P" else picture.convert(kind)
        picture.save(tmp_path / f"{number}.png")
    for own in load_own_images(path, 0.25):
        assert (own.images[..., :3] == alpha).all() and (own.images[..., 3:] == 255).all()


@pytest.mark.parametrize(
    "arrays, complaint",
    [
        ({"images": GREY[:, :3]}, "images of 3 x 6 pixels: height and width must be even"),
        ({"images": GREY[0]}, "images of shape .4, 6.: must be"),
        ({"images": GREY[..., None].repeat(2, -1)}, "images of shape .12, 4, 6, 2.: must be"),
        ({"images": GREY[:1]}, "holds too few images .1.: training and validation need one each"),
        ({"images": GREY.astype(np.int64)}, "holds int64: must be uint8, or floats"),
        ({"images": GREY.astype(float)}, "floats that are not in .0, 1."),
        ({"images": np.full((3, 2, 2), np.nan)}, "floats that are not in .0, 1."),
        ({"images": np.array([{}, {}])}, "more than plain arrays; nothing of it was run"),
        ({"a": GREY, "b": GREY}, "holds the arrays a, b: name one of them images"),
        ({"images": GREY, "labels": GREY}, "labels of shape"),
        ({"images": GREY, "labels": np.arange(12) / 2}, "a whole number for each image"),
        ({"images": GREY, "labels": np.full(12, np.nan)}, "a whole number for each image"),
        ({"images": GREY, "labels": np.array(list("abcdefghijkl"))}, "a whole number"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_one_line(tmp_path, arrays, complaint):
    with pytest.raises(DataError, match=f"^.*images.npz .*{complaint}.*$"):
        load_own_images(save_npz(tmp_path, **arrays), 0.25)


@pytest.mark.parametrize("start", [0, 300, 700])
def test_damaged_arrays_are_refused_by_name(tmp_path, start):
    path = save_npz(tmp_path, images=GREY)
    content = bytearray(path.read_bytes())
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(content[:-30] if start == 700 else content)
    with pytest.raises(DataError, match="images.npz (is damaged|can't be read)"):
        load_own_images(path, 0.25)


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "05.png can't be read as"),
        (lambda path: Image.fromarray(GREY[0].T).save(path), "have 6 x 4 and 4 x 6 pixels"),
        (lambda path: Image.fromarray(GREY[0]).save(path, "GIF"), "05.png can't be read as"),
    ],
)
def test_bad_files_in_a_folder_are_named(tmp_path, spoil, complaint):
    spoil(save_png(tmp_path) / "05.png")
    with pytest.raises(DataError, match=complaint):
        load_own_images(tmp_path, 0.25)


def test_images_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match="00.png can't be read .*decompression bomb"):
        load_own_images(save_png(tmp_path), 0.25)


@pytest.mark.parametrize("name", ["nowhere.npz", "."])
def test_paths_without_images_are_named(tmp_path, name):
    with pytest.raises(DataError, match="is missing|holds no PNG"):
        load_own_images(tmp_path / name, 0.25)


def test_own_images_are_read_again_only_if_one_of_them_changes(tmp_path):
    save_png(tmp_path)
    before, again = (load_images(str(tmp_path), "")[0] for _ in range(2))
    assert before is again
    save_png(tmp_path, GREY // 2)
    assert load_images(str(tmp_path), "")[0].images.max() <= 127


def test_data_sets_are_made_of_them(tmp_path):
    path = save_png(tmp_path / "tab\tand\x1b[31m")
    datasets, _, sizes = get_data(1, 4, dataset=str(path), val_fraction=0.5)
    assert sizes == {"train": 6, "val": 6} and datasets["val"][0]["input"].shape == (4, 6)
    assert datasets["train"].name == "tab\ufffdand\ufffd[31m training split"
