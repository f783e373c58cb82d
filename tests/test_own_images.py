import json
import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from cvae.data import get_data
from cvae.datasets import load_images
from cvae.files import FILES, DataError, UsageError
from cvae.own_images import find_own_images, load_own_images

GREY = np.random.default_rng(0).integers(0, 256, (12, 4, 6), dtype=np.uint8)
RGB = np.repeat(GREY[..., None], 3, -1)


def load(path):
    return load_images(str(path), "nowhere")


def save_npz(folder, **arrays):
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def save_png(folder, *values, images=None):
    """Write images of one grey each, or those given."""
    folder.mkdir(exist_ok=True, parents=True)
    images = [np.full((4, 6), value, np.uint8) for value in values] if images is None else images
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def as_set(images):
    return {np.asarray(image).tobytes() for image in images}


def greys(images):
    """Grey and label of each image, where each has one grey."""
    return sorted(zip(images.images[:, 0, 0].tolist(), images.digits.tolist(), strict=True))


OPAQUE = np.full_like(GREY[..., None], 255)


@pytest.mark.parametrize(
    "images", [GREY, GREY[..., None], RGB, np.concatenate([RGB, OPAQUE], -1), GREY / 255, RGB / 255]
)
def test_arrays_of_all_kinds_turn_into_the_same_bytes(tmp_path, images):
    own = load(save_npz(tmp_path, anything=images))
    assert list(own) == ["train"] and torch.equal(own["train"].images, torch.as_tensor(GREY))


def test_colours_take_hardly_more_memory_than_their_array(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    tracemalloc.start()
    try:
        load_own_images(tmp_path / "images.npz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 2.5 * images.nbytes


@pytest.mark.parametrize("dtype", [np.uint8, ">i4", np.uint64, np.float64])
@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_labels_stay_with_their_images(tmp_path, dtype, shape):
    labels = GREY[:, 0, 0].astype(dtype).reshape(shape)
    datasets, *_ = get_data(1, 4, dataset=str(save_npz(tmp_path, images=GREY, labels=labels)))
    for data in datasets.values():
        assert torch.equal(data.source.images[:, 0, 0].long(), data.source.digits)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".bmp", ".tif", ".TIFF", ".webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_formats_of_images(tmp_path, suffix, mode):
    for value in (0, 100, 200):
        picture = Image.new("L", (6, 4), value).convert(mode)
        picture.save(tmp_path / f"{value}{suffix}", lossless=True)  # as WebP; others ignore it
    values = [grey for grey, _ in greys(load(tmp_path)["train"])]
    assert values == pytest.approx([0, 100, 200], abs=2 if suffix[1] in "jJ" else 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P"])
def test_modes_of_images(tmp_path, mode):
    for number, image in enumerate(GREY):
        sixteen_bits = Image.fromarray(image.astype(np.uint16) * 257)
        picture = sixteen_bits if mode == "I;16" else Image.fromarray(image).convert(mode)
        picture.save(tmp_path / f"{number}.png")
    assert as_set(load(tmp_path)["train"].images) == as_set(GREY)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_is_obeyed(tmp_path, suffix, dtype):
    if dtype == np.uint16:
        suffix = {".jpg": ".tif", ".webp": ".png"}.get(suffix, suffix)  # with 16 bits
    exif = Image.Exif()
    exif[0x0112] = 6  # turn to the right
    lying = np.zeros((6, 4), dtype)
    lying[:3] = np.iinfo(dtype).max  # so that the right half is white
    Image.fromarray(lying).save(tmp_path / f"0{suffix}", exif=exif)
    images = load(tmp_path)["train"].images
    assert images.shape == (1, 4, 6)
    assert (images[..., :2] < 50).all() and (images[..., 4:] > 200).all()


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("kind", ["array", "RGBA", "LA", "P"])
def test_what_is_transparent_turns_black(tmp_path, kind, alpha):
    pixels = np.full((2, 4, 6, 4), 255, np.uint8)
    pixels[:, :, :3, 3] = alpha
    path = tmp_path if kind != "array" else save_npz(tmp_path, images=pixels)
    for number, image in enumerate(pixels if kind != "array" else []):
        picture = Image.fromarray(image)
        picture = picture.quantize() if kind == "P" else picture.convert(kind)
        picture.save(tmp_path / f"{number}.png")
    images = load(path)["train"].images
    assert (images[..., :3] == alpha).all() and (images[..., 3:] == 255).all()


def test_dark_images_of_16_bits_are_warned_about(tmp_path):
    save_png(tmp_path, images=[GREY[0].astype(np.uint16), GREY[1] * np.uint16(257)])
    with pytest.warns(
        UserWarning, match="^16-bit images hold no value above 255 .1, such as .*00.png.*black"
    ):
        images = load(tmp_path)["train"].images
    assert as_set(images) == as_set([np.rint(GREY[0] / 257).astype(np.uint8), GREY[1]])


def test_other_files_are_counted(tmp_path):
    save_png(tmp_path / "a", 1, 2)
    for name in ("a/1.gif", "a/2.GIF", "a/3.gif", "labels.csv", ".hidden.gif", "a/._0.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(
        UserWarning, match="also holds files that are not read: 1 .GIF, 1 .csv, 2 .gif$"
    ):
        assert len(load(tmp_path)["train"]) == 2
    with pytest.raises(DataError, match="a holds no PNG, .*WebP file, but 1 .GIF, 2 .gif$"):
        for file in (tmp_path / "a").glob("*.png"):
            file.unlink()
        find_own_images(tmp_path / "a")


def test_folders_are_classes(tmp_path):
    save_png(tmp_path, 9)
    save_png(tmp_path / "cats", 10, 11)
    save_png(tmp_path / "dogs", 20)
    save_png(tmp_path / ".ipynb_checkpoints", 30)
    own = load(tmp_path)["train"]
    assert greys(own) == [(9, 0), (10, 1), (11, 1), (20, 2)] and own.num_classes == 3


def test_first_images_are_of_all_classes(tmp_path):
    for label, name in enumerate("abc"):
        save_png(tmp_path / "train" / name, *[label] * 20)
        save_png(tmp_path / "test" / name, *[label] * 20)
    for images in load(tmp_path).values():
        assert images.digits[:20].unique().tolist() == [0, 1, 2]
        assert torch.equal(images.digits, images.images[:, 0, 0].long())


@pytest.mark.parametrize(
    "folders, expected",
    [
        ({"train": 10, "test": 30}, {"train": 10, "val": 30}),
        ({"Training": 10, "TESTING": 30}, {"train": 10, "val": 30}),
        ({"train": 10, "valid": 20}, {"train": 10, "val": 20}),
        ({"Val": 20, "test": 30, "train": 10}, {"train": 10, "val": 20, "test": 30}),
        ({"testing": 30, "train": 10, "validation": 20}, {"train": 10, "val": 20, "test": 30}),
    ],
)
def test_folders_bring_their_split_with_one_label_for_each_class(tmp_path, folders, expected):
    for folder, value in folders.items():
        save_png(tmp_path / folder / "shared by all", value)
        save_png(tmp_path / folder / f"only {value}", value + 1)
    datasets, *_ = get_data(1, 4, dataset=str(tmp_path))
    labels = {value: label for label, value in enumerate(sorted(folders.values()))}
    assert list(datasets) == list(expected)
    for split, value in expected.items():
        own = [(value, len(labels)), (value + 1, labels[value])]
        assert greys(datasets[split].source) == own


@pytest.mark.parametrize(
    "arrays, expected",
    [
        (
            {"test_images": 30, "test_labels": 3, "train_images": 10, "train_labels": 1}
            | {"val_images": 20, "val_labels": 2},
            {"training": (10, 1), "validation": (20, 2), "test": (30, 3)},
        ),
        (
            {"x_train": 10, "y_train": 1, "x_test": 30, "y_test": 3},
            {"training": (10, 1), "test": (30, 3)},
        ),
        ({"train_images": 10, "test_images": 30}, {"training": (10, 0), "test": (30, 0)}),
    ],
)
def test_archives_bring_their_split(tmp_path, arrays, expected):
    shapes = {name: (3, 4, 6) if value >= 10 else (3, 1) for name, value in arrays.items()}
    path = save_npz(
        tmp_path, **{name: np.full(shapes[name], value, np.uint8) for name, value in arrays.items()}
    )
    datasets, _, sizes = get_data(1, 4, dataset=str(path))
    assert sizes == dict.fromkeys(["train", "val", "test"][: len(expected)], 3)
    for data, (title, own) in zip(datasets.values(), expected.items(), strict=True):
        assert greys(data.source) == 3 * [own] and data.name == f"images.npz {title} set"


def test_brought_split_leaves_no_choice(tmp_path):
    save_png(tmp_path / "train", 1, 2, 3)
    assert get_data(1, 2, dataset=str(tmp_path), val_fraction=0.4)[2] == {"train": 2, "val": 1}
    save_png(tmp_path / "test", 4)
    assert get_data(1, 2, dataset=str(tmp_path))[2] == {"train": 3, "val": 1}
    for option in ({"val_fraction": 1 / 6}, {"holdout": 1}):
        with pytest.raises(UsageError, match=f"^{tmp_path} brings its own split .*leave out --val"):
            get_data(1, 2, dataset=str(tmp_path), **option)


@pytest.mark.parametrize(
    "folders, complaint",
    [
        (["train/a/b"], "train/a/b/00.png is nested too deeply"),
        (["a", "b/c"], "b/c/00.png is nested too deeply"),
        (["train", "test", "extra"], "extra/00.png is in none of the splits .test, train. of"),
        (["train", "."], "00.png is in none of the splits .train. of"),
        (["test/a", "val"], "holds images for val and test, but none for train"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path, folders, complaint):
    for folder in folders:
        save_png(tmp_path / folder, 1)
    with pytest.raises(DataError, match=f"^.*{complaint}.*$"):
        load(tmp_path)


def write_run(folder, name):
    save_png(folder, 99, 98)
    (folder / name).write_text(json.dumps({}))


@pytest.mark.parametrize("name", [FILES["metrics"], FILES["checkpoint"].format(n=2)])
def test_files_of_a_run_are_no_images(tmp_path, name):
    save_png(tmp_path / "images" / "a", 1)
    save_png(tmp_path / "images" / "b", 2)
    alone = find_own_images(tmp_path / "images")
    write_run(tmp_path / "images" / "results" / "seed_0", name)
    write_run(tmp_path / "images" / "out", name)
    save_png(tmp_path / "images" / "out" / "below", 97)
    write_run(tmp_path, name)  # around the images
    assert find_own_images(tmp_path / "images") == alone
    assert greys(load(tmp_path / "images")["train"]) == [(1, 0), (2, 1)]
    with pytest.raises(DataError, match=f"^{tmp_path} holds the files of a run .{name}.: move"):
        get_data(1, 2, dataset=str(tmp_path))


def test_links_are_followed_once(tmp_path):
    elsewhere, root = save_png(tmp_path / "elsewhere", 10, 11), tmp_path / "images"
    (save_png(root / "z", 20) / "back").symlink_to(root)
    (elsewhere / "self").symlink_to(elsewhere / "self")
    for name, target in {"a": root / "z", "b": elsewhere, "c": elsewhere, "d": "gone"}.items():
        (root / name).symlink_to(target)
    assert greys(load(root)["train"]) == [(10, 0), (11, 0), (20, 1)]  # as b, and as z
    (tmp_path / "link").symlink_to(root)
    assert len(load(tmp_path / "link")["train"]) == 3


@pytest.mark.parametrize(
    "arrays, complaint",
    [
        ({"images": GREY[:, :3]}, "images of 3 x 6 pixels: height and width must be even"),
        ({"images": GREY[0]}, "images of shape .4, 6.: must be"),
        ({"images": GREY[..., None].repeat(2, -1)}, "images of shape .12, 4, 6, 2.: must be"),
        ({"images": GREY[:0]}, "holds no images"),
        ({"images": GREY.astype(np.int64)}, "holds int64: must be uint8, or floats"),
        ({"images": GREY.astype(float)}, "floats that are not in .0, 1."),
        ({"images": np.full((3, 2, 2), np.nan)}, "floats that are not in .0, 1."),
        ({"images": np.array([{}, {}])}, "more than plain arrays; nothing of it was run"),
        ({"a": GREY, "b": GREY}, "holds the arrays a, b: name them images"),
        ({"x_train": GREY, "x_test": GREY[:, :2]}, "2 x 6 and 4 x 6 pixels: all must"),
        ({"x_test": GREY, "y_test": GREY}, "images for test, but none for train"),
        ({"images": GREY, "labels": GREY}, "labels of shape"),
        ({"images": GREY, "labels": np.arange(12) / 2}, "a whole number for each image"),
        ({"images": GREY, "labels": np.full(12, np.nan)}, "a whole number for each image"),
        ({"images": GREY, "labels": np.array(list("abcdefghijkl"))}, "a whole number"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_one_line(tmp_path, arrays, complaint):
    with pytest.raises(DataError, match=f"^.*images.npz .*{complaint}.*$"):
        load(save_npz(tmp_path, **arrays))


@pytest.mark.parametrize("kept", [slice(0), slice(-50), slice(4, None)])
def test_damaged_arrays_are_refused_by_name(tmp_path, kept):
    path = save_npz(tmp_path, images=GREY)
    path.write_bytes(path.read_bytes()[kept])
    with pytest.raises(DataError, match="images.npz (is damaged|can't be read)"):
        load(path)


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "05.png can't be read as an image"),
        (lambda path: Image.fromarray(GREY[0].T).save(path), "have 6 x 4 and 4 x 6 pixels"),
        (lambda path: Image.fromarray(GREY[0]).save(path, "GIF"), "05.png can't be read as"),
    ],
)
def test_bad_files_in_a_folder_are_named(tmp_path, spoil, complaint):
    spoil(save_png(tmp_path, images=GREY) / "05.png")
    with pytest.raises(DataError, match=complaint):
        load(tmp_path)


def test_images_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match="00.png can't be read .*decompression bomb"):
        load(save_png(tmp_path, 1))


def test_paths_that_are_no_images_are_named(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    for path in ("nowhere.npz", "fifo.png"):
        with pytest.raises(DataError, match=f"{path} is missing, or neither a file nor a folder"):
            find_own_images(tmp_path / path)
    with pytest.raises(DataError, match="holds no PNG"):
        find_own_images(tmp_path)


def test_own_images_are_read_again_only_if_one_of_them_changes(tmp_path):
    save_png(tmp_path, 1, 2)
    before, again = (load_images(str(tmp_path), "")["train"] for _ in range(2))
    assert before is again
    save_png(tmp_path, images=GREY[:2])
    assert as_set(load_images(str(tmp_path), "")["train"].images) == as_set(GREY[:2])


def test_data_sets_are_made_of_them(tmp_path):
    path = save_png(tmp_path / "tab\tand\x1b[31m", images=GREY)
    datasets, _, sizes = get_data(1, 4, dataset=str(path), val_fraction=0.5)
    assert sizes == {"train": 6, "val": 6} and datasets["val"][0]["input"].shape == (4, 6)
    assert datasets["train"].name == "tab\ufffdand\ufffd[31m training split"
