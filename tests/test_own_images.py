import contextlib
import json
import os
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cvae.data import get_data
from cvae.datasets import load_images
from cvae.experiment.command_line import parse_args
from cvae.files import FILES, DataError, UsageError
from cvae.own_images import find_own_images, load_own_images

pytestmark = pytest.mark.filterwarnings("ignore:.* nearly black")  # as many greys below are
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


def save_pages(path):
    page, other = map(Image.fromarray, GREY[:2])
    page.save(path, "TIFF", save_all=True, append_images=[other])


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
    assert list(own) == ["train"] and as_set(own["train"].images) == as_set(GREY)


SQUARES, LABELS = GREY[:, :, :4], np.arange(12) * 20
FLAT, PIXELS = SQUARES.reshape(12, 16), [f"pixel{n}" for n in range(16)]


@pytest.mark.parametrize("images", [SQUARES, FLAT, FLAT / 255])
@pytest.mark.parametrize("name", ["images.npy", "images.NPZ"])
def test_squares_may_be_flat_in_both_kinds_of_array(tmp_path, name, images):
    with open(tmp_path / name, "wb") as file:
        np.save(file, images) if name == "images.npy" else np.savez(file, images)
    assert as_set(load(tmp_path / name)["train"].images) == as_set(SQUARES)


@pytest.mark.parametrize(
    "columns, header",
    [([LABELS, FLAT], [*place, *PIXELS][: len(place) * 17]) for place in ([], ["label"])]
    + [([FLAT, LABELS], [*PIXELS, "Class"]), ([FLAT], []), ([FLAT], PIXELS)]
    + [([FLAT], [*range(16)])],
)
def test_tables_have_a_row_for_each_image(tmp_path, columns, header):
    table = pd.DataFrame(np.column_stack(columns), columns=header or None)
    table.to_csv(tmp_path / "train.CSV", header=bool(header), index=False)
    own, labels = load(tmp_path / "train.CSV")["train"], LABELS * (len(columns) == 2)
    found = torch.cat([own.digits[:, None], own.images.flatten(1)], dim=1).tolist()
    assert sorted(found) == sorted(np.column_stack([labels, FLAT]).tolist())


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("", "1 columns: must be a label or none, and the values of a square"),
        ("a,b\n1,2\n", "2 columns: must be"),
        ("1,2,3,256\n", "string '256' to uint8 at row 0, column 4"),
        ("a,b,c,d\n1,2,3,0.5\n", "string '0.5' to uint8"),
        (",a,b,c,d\n0,1,2,3,4\n", "5 columns: must be"),  # the numbers of rows, and no labels
        ("id,a,b,c,d\n0,1,2,3,4\n", "none of its 5 columns is called label"),
        ("a,b,c,label,d\n", "it holds no images"),
    ],
)
def test_other_tables_are_refused_in_one_line(tmp_path, content, complaint):
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(DataError, match=f"^.*train.csv can't be read as a table .*{complaint}.*$"):
        load(tmp_path / "train.csv")


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


@pytest.mark.parametrize(
    "images, dark",
    [
        ([GREY[0].astype(np.uint16), GREY[1] * np.uint16(257)], "1 of 2 .* above 1 of 255"),
        (GREY.astype(np.uint16) * 16, "12 of 12 .* above 16 of 255"),  # as of 12 bits
        (GREY // 128, "12 of 12 .* above 1 of 255"),
        ((GREY // 128).astype(np.uint16), "12 of 12 .* above 0 of 255"),
    ],
)
def test_images_that_are_nearly_black_are_warned_about(tmp_path, images, dark):
    paths = [save_png(tmp_path / "folder", images=images)]
    paths += [save_npz(tmp_path, images=images)] if images[0].dtype == np.uint8 else []
    for path in paths:
        with pytest.warns(UserWarning, match=f"^{dark}; scale"):
            load(path)


@pytest.mark.parametrize("white", [255, 256])
def test_floats_are_read_alike_from_arrays_and_files(tmp_path, white):
    floats, folder = (GREY / white).astype(np.float32), save_png(tmp_path / "folder")
    for number, image in enumerate(floats):
        Image.fromarray(image).save(folder / f"{number}.tif")
    rounded = pytest.warns(UserWarning, match="npz holds floats, rounded to 8 bits")
    with rounded if white == 256 else contextlib.nullcontext():
        own = load(save_npz(tmp_path, images=floats))["train"].images
    assert as_set(own) == as_set(load(folder)["train"].images)
    assert as_set(own) == as_set(np.rint(floats * 255).astype(np.uint8))


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
    "arrays",
    [
        dict(test_images=180, test_labels=3, train_images=60, train_labels=1),
        dict(train_images=60, train_labels=1, val_images=120, val_labels=2),
        dict(x_train=60, y_train=1, x_test=180, y_test=3),
        dict(X_train=60, Y_train=1, x_valid=120, valid_y=2),
        dict(train=60, validation=120),
        dict(images=60, targets=1),
        dict(X=60, y=1),
        dict(data=60, target=1),
        dict(train_images=60, train_label=1),
    ],
)
def test_arrays_are_known_by_the_names_that_people_use(tmp_path, arrays):
    """Grey and label are 60 and 1 in training, 120 and 2 in validation, 180 and 3 in the test."""
    filled = {k: np.full((3, 4, 6) if v > 3 else (3, 1), v, np.uint8) for k, v in arrays.items()}
    own, there = load(save_npz(tmp_path, **filled)), arrays.values()
    expected = [3 * [(60 * n, n * (n in there))] for n in (1, 2, 3) if 60 * n in there]
    assert [greys(images) for images in own.values()] == expected


def test_labels_of_some_splits_alone_are_not_read(tmp_path):
    """Else images without a label would be of the first class."""
    digits = np.zeros((3, 4, 6), np.uint8)
    arrays = {"train_images": digits, "train_labels": [1, 2, 3], "test_images": digits}
    with pytest.warns(UserWarning) as warned:
        own = load(save_npz(tmp_path, **arrays))
    assert "also holds arrays that are not read: train_labels" in str(warned[0].message)
    assert [images.digits.tolist() for images in own.values()] == [[0, 0, 0]] * 2


def test_arrays_that_are_not_read_are_named(tmp_path):
    with pytest.warns(UserWarning, match="also holds arrays that are not read: x, notes$"):
        load(save_npz(tmp_path, x=GREY, images=GREY, notes=np.zeros(3)))


@pytest.mark.parametrize("split, options", [("", {"holdout": 60}), ("train_", {"subset": 60})])
def test_sorted_arrays_are_mixed_before_they_are_cut(tmp_path, split, options):
    """In the same way for every seed; each image keeps its label."""
    labels = np.repeat(np.arange(10), 60)
    images = np.tile((labels * 20 + 20).astype(np.uint8)[:, None, None], (2, 2))
    path = save_npz(tmp_path, **{f"{split}images": images, f"{split}labels": labels})
    datasets, others = (get_data(1, 8, dataset=str(path), seed=n, **options)[0] for n in (0, 1))
    for data, other in zip(datasets.values(), others.values(), strict=True):
        assert data.source.num_classes == 10
        assert torch.equal(data.source.digits * 20 + 20, data.source.images[:, 0, 0].long())
        assert torch.equal(data.source.images, other.source.images)


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
        ({"a": GREY, "b": GREY}, "holds the arrays a, b: name them: np.savez.*images=array"),
        ({"x_train": GREY, "x_test": GREY[:, :2]}, "4 x 6 and 2 x 6 pixels: all must"),
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
        (save_pages, "05.png can't .*it holds 2: save each in a file of its own"),
        (
            lambda path: Image.fromarray(np.float32(GREY[0])).save(path, "TIFF"),
            "05.png .* 0 to 1.$",
        ),
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


@pytest.mark.parametrize("name, advice", [("x.txt", "save an array"), ("x.png", "put many images")])
def test_other_files_are_refused_alike_in_python_and_a_command(tmp_path, capsys, name, advice):
    (tmp_path / name).touch()
    complaint = f"{tmp_path}/{name} is neither a folder nor an .npz, .npy or .csv file: {advice}"
    with pytest.raises(DataError, match=complaint):
        get_data(1, 2, dataset=str(tmp_path / name))
    with pytest.raises(SystemExit):
        parse_args(["--dataset", str(tmp_path / name)])
    assert complaint in capsys.readouterr().err


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
