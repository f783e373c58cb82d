"""Files are written as a whole or not at all, and nothing is loaded that was not checked."""

import errno
import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvae.files import FileError, atomic_write, read_tensors

CONTENT = {
    "weights": {"fc1.weight": torch.arange(12.0).view(3, 4), "fc1.bias": torch.ones(3)},
    "epochs": [{"val": 1.5, "seconds": 2.0}],
    "name": None,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
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
def damaged(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "file.pt"


def refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(FileError, match="file.pt is damaged, or holds more") as failure:
        read_tensors(path)
    assert "\n" not in str(failure.value)


@given(st.data())
def test_truncated_file_is_refused(saved, damaged, data):
    refused(damaged, saved[: data.draw(st.integers(0, len(saved) - 1))])


@given(st.data())
def test_overwritten_bytes_are_refused_or_change_nothing(saved, damaged, data):
    start = data.draw(st.integers(0, len(saved) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=64))
    damaged.write_bytes(saved[:start] + noise + saved[start + len(noise) :])
    try:
        assert same(read_tensors(damaged), CONTENT)
    except FileError as error:
        assert str(error).startswith(str(damaged))


def test_flipped_bit_of_a_weight_is_refused(saved, damaged):
    """PyTorch alone takes it."""
    flipped = bytearray(saved)
    flipped[saved.index(torch.arange(12.0).numpy().tobytes()) + 7] ^= 1
    damaged.write_bytes(flipped)
    assert not same(torch.load(damaged, weights_only=True), CONTENT)
    refused(damaged, bytes(flipped))


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def test_code_in_a_file_is_never_run(damaged, tmp_path):
    made = tmp_path / "made"
    torch.save({"weights": Hostile(made)}, damaged)
    refused(damaged, damaged.read_bytes())
    refused(damaged, pickle.dumps(Hostile(made)))
    assert not made.exists()
    pickle.loads(pickle.dumps(Hostile(made)))
    assert made.exists()  # it would have


@pytest.mark.parametrize("room", [0, 500, 1200])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, room):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr("cvae.files.open", Full, raising=False)
    path = tmp_path / "file.pt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="can't write .*file.pt .No space left on device"):
        with atomic_write(path) as file:
            torch.save(CONTENT, file)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_interrupted_write_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file") as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
