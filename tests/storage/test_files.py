"""Files are written as a whole or not at all, and nothing is loaded that was not checked."""

import errno
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvae.errors import FileError
from cvae.storage.files import atomic_write, read_tensors

CONTENT = {
    "weights": {"fc1.weight": torch.arange(12.0).view(3, 4), "fc1.bias": torch.ones(3)},
    "epochs": [{"val": 1.5, "seconds": 2.0}],
    "name": None,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "file.pt"
    with atomic_write(path) as file:
        torch.save(CONTENT, file)
    assert same(read_tensors(path), CONTENT)
    return path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bad") / "file.pt"


def refused(place: Path, data: bytes, cause: str) -> None:
    place.write_bytes(data)
    with pytest.raises(FileError, match=cause) as failure:
        read_tensors(place)
    assert str(failure.value).startswith(str(place)) and "\n" not in str(failure.value)


@given(st.data())
def test_flipped_bit_is_refused_or_changes_nothing(saved, place, data):
    """The CRC-32 of each part finds any flipped bit in it; a few bits of the zip's own fields mean nothing."""
    bit = data.draw(st.integers(0, 8 * len(saved) - 1))
    flipped = bytearray(saved)
    flipped[bit // 8] ^= 1 << bit % 8
    place.write_bytes(flipped)
    try:
        content = read_tensors(place)
    except FileError as error:
        assert str(error).startswith(str(place)) and "\n" not in str(error)
    else:
        assert same(content, CONTENT)


def test_flipped_bit_of_a_weight_still_parses_and_is_refused(saved, place):
    """PyTorch alone takes it."""
    at = saved.index(torch.arange(12.0).numpy().tobytes())
    flipped = bytearray(saved)
    flipped[at + 7] ^= 1
    place.write_bytes(flipped)
    assert not same(torch.load(place, weights_only=True), CONTENT)
    refused(place, bytes(flipped), "is damaged")


@given(st.data())
def test_truncated_file_is_refused(saved, place, data):
    refused(
        place,
        saved[: data.draw(st.integers(0, len(saved) - 1))],
        "is damaged, or no file of PyTorch",
    )


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused(place, data):
    refused(place, data, "is damaged, or no file of PyTorch")


@given(st.data())
def test_overwritten_stretch_is_refused_or_changes_nothing(saved, place, data):
    start = data.draw(st.integers(0, len(saved) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=64))
    place.write_bytes(saved[:start] + noise + saved[start + len(noise) :])
    try:
        assert same(read_tensors(place), CONTENT)
    except FileError as error:
        assert str(error).startswith(str(place))


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def test_hostile_file_is_refused_and_its_code_is_not_run(place, tmp_path):
    made = tmp_path / "made"
    for save in (torch.save, pickle_alone, pickle_in_zip):
        save({"weights": Hostile(made)}, place)
        refused(place, place.read_bytes(), "nothing of it was run|no file of PyTorch")
        assert not made.exists()
    with open(place, "rb") as file, zipfile.ZipFile(file) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert made.exists()  # it would have


def pickle_alone(content, path):
    path.write_bytes(pickle.dumps(content))


def pickle_in_zip(content, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def test_what_is_not_a_file_is_refused(tmp_path):
    for path, cause in ((tmp_path, "is not a file"), (tmp_path / "absent", "is missing")):
        with pytest.raises(FileError, match=cause):
            read_tensors(path)


class Full:
    """A disk that is full after some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


@pytest.mark.parametrize("room", [0, 1, 500, 1200])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, saved, room):
    monkeypatch.setattr(
        "cvae.storage.files.open", lambda *args: Full(open(*args), room), raising=False
    )
    path = tmp_path / "file.pt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="can't write .*file.pt .No space left on device"):
        with atomic_write(path) as file:
            torch.save(CONTENT, file)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_folder_that_went_away_is_named(tmp_path):
    with pytest.raises(OSError, match="can't write .*gone/file .No such file or directory"):
        with atomic_write(tmp_path / "gone" / "file") as file:
            file.write(b"new")


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        with atomic_write(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_temporary_file_is_new_and_as_open_to_others_as_any(tmp_path):
    """Nothing is written through links with names that somebody could know, and the user's umask counts."""
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_bytes(b"precious")
    (tmp_path / ".file.part").symlink_to(target)
    names = set()
    for content in (b"one", b"two"):
        with atomic_write(path) as file:
            file.write(content)
            names |= {each.name for each in tmp_path.glob(".file.*.part")}
    assert target.read_bytes() == b"precious" and path.read_bytes() == b"two"
    assert len(names) == 2
    assert path.stat().st_mode == target.stat().st_mode


def test_new_file_is_flushed_before_it_takes_the_place(tmp_path, monkeypatch):
    path, calls = tmp_path / "file", []

    def recorded(name):
        original = getattr(os, name)

        def call(*args):
            calls.append(name)
            return original(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name))
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and calls == ["fsync", "replace"]
