import io
import os
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
    return [split.images for split in load_own_images(path, val_fraction)]


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
        np.concatenate([np.repeat(GREY[..., None], 3, -1), np.full_like(GREY[..., None], 255)], -1),
        GREY / 255,
        (GREY / 255).astype(np.float32)[..., None],
        np.repeat(GREY[..., None], 3, -1) / 255,
    ],
)
def test_arrays_of_all_kinds_turn_into_the_same_bytes(tmp_path, images):
    train, val = all_of(save(tmp_path, anything=images))
    assert train.dtype == torch.uint8 and as_set(train) | as_set(val) == as_set(
        torch.as_tensor(GREY)
    )


def test_labels_stay_with_their_images(tmp_path):
    path = save(tmp_path, images=GREY, labels=GREY[:, 0, 0])
    own, _ = load_own_images(path, 0.25)
    assert torch.equal(own.images[:, 0, 0].long(), own.digits)
    assert (load_own_images(save(tmp_path, images=GREY), 0.25)[0].digits == 0).all()


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
    labels = load_own_images(tmp_path, 0.25)[0].digits
    assert set(labels.tolist()) == ({0, 1, 2} if by_class else {0})


def write_png_files(folder):
    folder.mkdir(exist_ok=True, parents=True)
    for number, image in enumerate(GREY):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


def see_through(kind, alpha):
    """White pictures whose left half has a transparency."""
    pixels = np.full((4, 4, 6, 4), 255, np.uint8)
    pixels[:, :, :3, 3] = alpha
    if kind in ("uint8", "float"):
        return pixels if kind == "uint8" else pixels / 255
    pictures = [Image.fromarray(each) for each in pixels]
    if kind == "LA":
        return [picture.convert("LA") for picture in pictures]
    return [picture.quantize() for picture in pictures] if kind == "P" else pictures


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("kind", ["uint8", "float", "RGBA", "LA", "P"])
def test_what_is_transparent_turns_black(tmp_path, kind, alpha):
    pictures = see_through(kind, alpha)
    if isinstance(pictures, list):
        for number, picture in enumerate(pictures):
            picture.save(tmp_path / f"{number}.png")
    train, val = all_of(tmp_path if isinstance(pictures, list) else save(tmp_path, images=pictures))
    for images in (train, val):
        assert (images[..., :3] == alpha).all() and (images[..., 3:] == 255).all()


@pytest.mark.parametrize(
    "mode, transparency", [("P", bytes([0, 128, 255])), ("P", 0), ("L", 0), ("1", 0)]
)
def test_transparency_of_a_colour_is_no_damage(tmp_path, mode, transparency):
    picture = Image.new(mode, (6, 4), 0)
    if mode == "P":
        picture.putpalette([255] * 9)
    for number in range(4):
        picture.save(tmp_path / f"{number}.png", transparency=transparency)
    assert all((images == 0).all() for images in all_of(tmp_path))


@pytest.mark.parametrize(
    "suffix, mode", [(".jpg", "L"), (".jpeg", "RGB"), (".JPG", "CMYK"), (".PNG", "RGB")]
)
def test_jpeg_files_count_as_well(tmp_path, suffix, mode):
    write_png_files(tmp_path)
    Image.new("L", (6, 4), 200).convert(mode).save(tmp_path / f"more{suffix}")
    assert sum(map(len, all_of(tmp_path))) == 13
    assert any(
        (abs(image.int() - 200) < 3).all() for images in all_of(tmp_path) for image in images
    )


@pytest.mark.parametrize(
    "add",
    [
        lambda folder: (folder / "._0.png").write_bytes(b"of macOS"),
        lambda folder: write_png_files(folder / ".ipynb_checkpoints"),
        lambda folder: os.mkfifo(folder / "f.png"),
        lambda folder: (folder / "folder.png").mkdir(),
    ],
)
def test_hidden_files_and_what_is_no_plain_file_are_left_out(tmp_path, add):
    add(write_png_files(tmp_path / ".hidden" / "images"))
    assert sum(map(len, all_of(tmp_path / ".hidden" / "images"))) == 12


def test_fifo_is_no_array(tmp_path):
    os.mkfifo(tmp_path / "images.npz")
    with pytest.raises(DataError, match="images.npz is missing, or neither a file nor a folder"):
        load_own_images(tmp_path / "images.npz", 0.25)


def test_images_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match="00.png can't be read .*decompression bomb"):
        load_own_images(write_png_files(tmp_path), 0.25)


@pytest.mark.parametrize(
    "name, printed",
    [
        (b"digits", "digits"),
        ("Größe".encode(), "Größe"),
        (b"caf\xe9", "caf\ufffd"),
        (b"a\tb\nc\x1b[31m", "a\ufffdb\ufffdc\ufffd[31m"),
    ],
)
def test_names_can_be_printed(tmp_path, name, printed):
    own = load_own_images(write_png_files(tmp_path / os.fsdecode(name)), 0.25)
    assert [split.name for split in own] == [
        f"{printed} training split",
        f"{printed} validation split",
    ]


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int16, ">i4", np.uint64, np.float16, np.float64]
)
def test_labels_are_whole_numbers_of_any_type(tmp_path, dtype):
    train, val = load_own_images(
        save(tmp_path, images=GREY, labels=(np.arange(12) % 2).astype(dtype)), 0.25
    )
    assert train.digits.dtype == torch.int64 and set(
        train.digits.tolist() + val.digits.tolist()
    ) == {0, 1}


@pytest.mark.parametrize(
    "labels",
    [
        np.full(12, np.nan),
        np.full(12, np.inf),
        np.arange(12) / 2,
        np.arange(12).astype(str),
        np.arange(12) * 1j,
        np.arange(12).astype("datetime64[D]"),
        np.full(12, 2**63, np.uint64),
        np.arange(12)[:, None],
    ],
)
def test_other_labels_are_refused(tmp_path, labels):
    complaint = (
        r"images.npz holds labels of shape .* and type .*: must be a whole number for each image$"
    )
    with pytest.raises(DataError, match=complaint):
        load_own_images(save(tmp_path, images=GREY, labels=labels), 0.25)


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
        ({"images": np.zeros((3, 0, 6))}, "images of 0 x 6 pixels"),
        ({"images": GREY / -255}, "floats that are not in .0, 1."),
        ({"images": np.array(["a", "b"])}, "images of shape"),
        ({"images": np.array([{}, {}])}, "holds more than plain arrays; nothing of it was run"),
        ({"a": GREY, "b": GREY}, "holds the arrays a, b: name one of them images"),
        ({}, "holds the arrays none"),
        ({"images": GREY, "labels": GREY}, "labels of shape"),
        (
            {"images": GREY, "labels": np.array(list("abcdefghijkl"))},
            "a whole number for each image",
        ),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(tmp_path, arrays, complaint):
    with pytest.raises(
        DataError, match=f"images.npz {complaint}|images.npz .*{complaint}"
    ) as failure:
        load_own_images(save(tmp_path, **arrays), 0.25)
    assert "\n" not in str(failure.value)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def archive_of(content, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("images.npy", content)
    return buffer.getvalue()


def array_of(shape):
    """A file that says it holds an array of a shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def changed(data, offset, directory_offset, value):
    """Change a field of the archive's only entry, both in the entry and in the directory."""
    directory = data.index(b"PK\1\2")
    for at in (offset, directory + directory_offset):
        data = data[:at] + bytes([value]) + data[at + 1 :]
    return data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-50],
        lambda data: b"",
        lambda data: flipped(data, 300),
        lambda data: archive_of(b"no array"),
        lambda data: archive_of(b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535),
        lambda data: archive_of(array_of((10**15, 28, 28))),
        lambda data: archive_of(array_of((10**9, 10**9, 10**9))),
        lambda data: changed(archive_of(array_of((2, 2, 2))), 6, 8, 1),  # encrypted
        lambda data: changed(archive_of(array_of((2, 2, 2))), 8, 10, 99),  # an unknown compression
        lambda data: flipped(archive_of(GREY.tobytes() * 9, zipfile.ZIP_LZMA), 60),
        lambda data: flipped(archive_of(GREY.tobytes() * 9, zipfile.ZIP_BZIP2), 60),
    ],
)
def test_damaged_arrays_are_refused_by_name(tmp_path, damage):
    path = save(tmp_path, images=GREY)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="images.npz (is damaged|can't be read)"):
        load_own_images(path, 0.25)


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:60]),
            "05.png can't be read as a PNG or JPEG file",
        ),
        (lambda path: path.write_text("text"), "05.png can't be read as a PNG or JPEG file"),
        (
            lambda path: Image.fromarray(GREY[0].T).save(path),
            "05.png and .*00.png have 6 x 4 and 4 x 6 pixels",
        ),
        (
            lambda path: Image.fromarray(GREY[0]).save(path, "GIF"),
            "05.png can't be read as a PNG or JPEG file",
        ),
    ],
)
def test_bad_files_in_a_folder_are_named(tmp_path, spoil, complaint):
    for number, image in enumerate(GREY):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    spoil(tmp_path / "05.png")
    with pytest.raises(DataError, match=complaint):
        load_own_images(tmp_path, 0.25)


def test_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no PNG or JPEG file"):
        load_own_images(tmp_path, 0.25)


@pytest.mark.parametrize("train, split", [(True, "training"), (False, "validation")])
def test_they_are_loaded_by_path_and_named_after_the_file(tmp_path, train, split):
    path = save(tmp_path, images=GREY)
    own = load_images(str(path), "nowhere", train, download=False, val_fraction=0.25)
    assert own.name == f"images.npz {split} split" and len(own) == (9 if train else 3)
    assert torch.equal(own.images, load_own_images(path, 0.25)[0 if train else 1].images)
    assert len(load_images(str(path), "nowhere", train, download=False)) == (10 if train else 2)


def test_a_file_that_is_missing_is_named():
    with pytest.raises(DataError, match="nowhere.npz is missing"):
        load_own_images("nowhere.npz", 0.25)


def test_data_sets_are_made_of_them(tmp_path):
    path = save(tmp_path, images=GREY)
    datasets, _, sizes = get_data(1, 4, dataset=str(path), val_fraction=0.5)
    assert sizes == {"train": 6, "val": 6} and datasets["val"][0]["input"].shape == (4, 6)
    assert datasets["train"].name == "images.npz training split"
