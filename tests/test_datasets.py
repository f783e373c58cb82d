import gzip
import hashlib
import http.server
import os
import socket
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from torchvision.datasets import MNIST

from cvae.data import CVAEMNIST, get_data
from cvae.datasets import Images, load_images, resolve_dataset, split_images
from cvae.files import DataError, UsageError
from cvae.own_images import find_own_images, load_own_images

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def write_mnist(folder, train=(12, 4, 6), test=(5, 4, 6)):
    """Write files in MNIST's format with random images of these shapes."""
    folder.mkdir(parents=True)
    for name, shape in (("train", train), ("t10k", test)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8).numpy().tobytes()
        header = struct.pack(">IIII", 2051, *shape)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images)
        labels = struct.pack(">II", 2049, shape[0]) + bytes(range(shape[0]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return sorted(folder.iterdir())


@pytest.fixture
def raw(tmp_path):
    """The folder of the four files of a small MNIST."""
    write_mnist(tmp_path / "MNIST" / "raw")
    return tmp_path / "MNIST" / "raw"


def pack(file, level=9):
    """Replace a file by its ``.gz``."""
    archive = file.with_name(f"{file.name}.gz")
    archive.write_bytes(gzip.compress(file.read_bytes(), level))
    file.unlink()
    return archive


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (5000, 2, 4), dtype=torch.uint8)
    return Images(pixels, torch.arange(5000) % 10, "MNIST test set")


@pytest.mark.parametrize(
    "rows, name",
    [
        (range(5000), "MNIST test set"),
        (range(40), "first 40 of the MNIST test set"),
        (range(2000), "first 2,000 of the MNIST test set"),
        (range(4000, 5000), "images 4,001 to 5,000 of the MNIST test set"),
        (range(0), "first 0 of the MNIST test set"),
    ],
)
def test_selected_images_are_named_and_have_their_digits(images, rows, name):
    selected = images.select(rows)
    assert len(selected) == len(rows) and selected.name == name
    assert torch.equal(selected.images, images.images[list(rows)])
    assert torch.equal(selected.digits, images.digits[list(rows)])


@pytest.mark.parametrize("height, width", [(27, 28), (28, 27), (0, 28), (28, 0)])
def test_odd_sizes_are_refused(height, width):
    complaint = f"^odd holds images of {height} x {width} pixels: .* must be even: resize or crop"
    with pytest.raises(DataError, match=complaint):
        Images(torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(3), "odd")


def test_fingerprint_is_that_of_the_images_alone(images):
    others = Images(images.images.clone(), images.digits + 1, "others")
    assert others.fingerprint() == images.fingerprint()
    others.images[-1, -1, -1] ^= 1
    assert others.fingerprint() != images.fingerprint()
    zeros = Images(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1), "zeros")
    assert zeros.fingerprint() == "df3f619804a92fdb"  # sha256sum of four zero bytes


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name, folder", FOLDERS.items())
def test_files_are_read_as_torchvision_reads_them(tmp_path, name, folder, packed):
    files = write_mnist(tmp_path / folder / "raw")
    data_set = getattr(torchvision.datasets, folder)
    expected = [data_set(root=str(tmp_path), train=train) for train in (True, False)]
    before = [pack(file, 1) if packed else file for file in files]
    splits = load_images(name, tmp_path, download=False).values()
    assert [split.name[-13:].strip() for split in splits] == ["training set", "NIST test set"]
    for ours, theirs in zip(splits, expected, strict=True):
        assert ours.images.dtype == torch.uint8 and torch.equal(ours.images, theirs.data)
        assert ours.digits.dtype == torch.int64 and torch.equal(ours.digits, theirs.targets)
    assert sorted((tmp_path / folder / "raw").iterdir()) == before  # nothing was unpacked


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:6],
        lambda content: b"",
        lambda content: b"\0\0\x09" + content[3:],  # of another type
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_file_is_named_in_one_line(raw, damage, packed):
    file = raw / "t10k-labels-idx1-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    file = pack(file) if packed else file
    with pytest.raises(DataError, match=f"^{file}: damaged .*delete it .*mnist-5k$"):
        load_images("mnist", raw.parents[1])


def test_damaged_archive_is_named_beside_a_file_cut_short(raw):
    file = raw / "t10k-labels-idx1-ubyte"
    archive = pack(file)
    archive.write_bytes(archive.read_bytes()[:-9])
    file.write_bytes(b"")
    with pytest.raises(DataError, match=f"^{file} and {archive}: damaged"):
        load_images("mnist", raw.parents[1])


def test_intact_archive_stands_in_for_a_file_cut_short(raw):
    file = raw / "train-images-idx3-ubyte"
    content = file.read_bytes()
    pack(file)
    file.write_bytes(content[:100])
    train = load_images("mnist", raw.parents[1])["train"]
    assert train.images.numpy().tobytes() == content[16:]


def test_each_image_needs_a_label(raw):
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 3) + b"abc")
    with pytest.raises(DataError, match="train-images.* and train-labels.* label for each image"):
        load_images("mnist", raw.parents[1])


@pytest.mark.parametrize("packed", [False, True])
def test_names_with_a_dot_are_read(raw, packed):
    expected = load_images("mnist", raw.parents[1])
    for file in sorted(raw.iterdir()):
        file = file.rename(raw / file.name.replace("-idx", ".idx"))
        _ = pack(file) if packed else None
    for split, images in load_images("mnist", raw.parents[1]).items():
        assert torch.equal(images.images, expected[split].images)


def test_missing_files_are_named_as_they_should_be_called(raw):
    (raw / "train-labels-idx1-ubyte").rename(raw / "train_labels")
    pack(raw / "t10k-images-idx3-ubyte").rename(raw / "images.gz")
    wanted = "put train-labels-idx1-ubyte, t10k-images-idx3-ubyte there, extracted or as .gz"
    with pytest.raises(DataError, match=wanted):
        load_images("mnist", raw.parents[1], download=False)


def test_home_folder_is_expanded_wherever_a_path_comes_in(raw, monkeypatch):
    monkeypatch.setenv("HOME", str(raw.parents[1]))
    np.savez(raw.parents[1] / "own.npz", images=np.full((6, 2, 2), 255, np.uint8))
    assert resolve_dataset("auto", "~") == "mnist"
    assert get_data(1, 4, dataset="mnist", data_dir="~")[2] == {"train": 12, "val": 5}
    assert len(CVAEMNIST("~")) == 12
    assert len(CVAEMNIST(Path("~"), train=False)) == 5 and len(load_images("~/own.npz", "")) == 1
    assert get_data(1, 4, dataset="~/own.npz")[2] == {"train": 5, "val": 1}
    assert resolve_dataset("~/own.npz", "~") == str(raw.parents[1] / "own.npz")
    assert load_own_images("~/own.npz") and find_own_images("~/own.npz")


@pytest.mark.parametrize("val_fraction, num_val", [(0.25, 1250), (1e-9, 1), (1 - 1e-9, 4999)])
def test_images_are_split_in_two_without_overlap(images, val_fraction, num_val):
    numbered = Images(images.images, torch.arange(5000), "images.npz")
    train, val = split_images(numbered, val_fraction).values()
    assert len(val) == num_val and len(train) == 5000 - num_val
    assert sorted(train.digits.tolist() + val.digits.tolist()) == list(range(5000))
    assert torch.equal(val.images, images.images[val.digits])
    assert val.name == "images.npz validation split"
    assert val.digits.tolist() == sorted(val.digits.tolist())
    assert torch.equal(val.digits, split_images(numbered, val_fraction)["val"].digits)
    assert val.num_classes == num_val
    with pytest.raises(DataError, match="images.npz holds too few images .1.: .* need one each"):
        split_images(Images(images.images[:1], torch.zeros(1), "images.npz"), 0.5)


def test_all_images_have_the_same_size(tmp_path):
    write_mnist(tmp_path / "KMNIST" / "raw", (12, 28, 28), (5, 26, 28))
    with pytest.raises(DataError, match="28 x 28 and 26 x 28 pixels: all must have the same size"):
        load_images("kmnist", tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_missing_files_are_an_error_in_one_line(tmp_path, name):
    with pytest.raises(DataError, match="MNIST is not in .*raw .*not allowed"):
        load_images(name, tmp_path, download=False)
    with pytest.raises(
        DataError, match="^.* can't be downloaded .*(refused|Error downloading).*: put .* there.*$"
    ):
        load_images(name, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_failed_download_falls_back_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="(?s)can't be downloaded.*Using MNIST-5k instead"):
        assert resolve_dataset("auto", tmp_path) == "mnist-5k"


@pytest.fixture
def serve(monkeypatch):
    """Let MNIST's files be downloaded from this machine, and return the list of those asked for."""
    servers = []

    def start(files):
        requested = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                requested.append(self.path.lstrip("/"))
                content = files.get(requested[-1])
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{servers[-1].server_port}/"])
        resources = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
        monkeypatch.setattr(MNIST, "resources", resources)
        return requested

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_missing_files_are_downloaded_once(raw, serve):
    expected = load_images("mnist", raw.parents[1])
    archives = [pack(file) for file in sorted(raw.iterdir())]
    requested = serve({archive.name: archive.read_bytes() for archive in archives})
    for archive in archives[1:]:
        archive.unlink()
    assert resolve_dataset("auto", raw.parents[1]) == "mnist"
    assert set(requested) == {archive.name for archive in archives[1:]}
    for split, images in load_images("mnist", raw.parents[1]).items():
        assert torch.equal(images.images, expected[split].images)
    assert len(set(requested)) == 3


def test_archives_that_are_not_the_originals_need_no_network(raw, serve):
    archives = [pack(file, 1) for file in sorted(raw.iterdir())]
    requested = serve({archive.name: b"the original" for archive in archives})
    assert len(load_images("mnist", raw.parents[1])["train"]) == 12 and not requested


def test_standard_output_is_left_to_the_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(MNIST, "download", lambda _: print("Downloading"))
    with pytest.raises(DataError):
        load_images("mnist", tmp_path)
    assert capsys.readouterr() == ("", "Downloading\n")


def test_silent_server_does_not_hang_the_download(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(MNIST, "mirrors", [address])
        monkeypatch.setattr("cvae.datasets.SOCKET_TIMEOUT", 0.2)
        with pytest.raises(DataError, match="timed out"):
            load_images("mnist", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_files_are_read_once_until_one_changes(raw, monkeypatch):
    reads, read_bytes = [], Path.read_bytes

    def record(file):
        reads.append(file)
        return read_bytes(file)

    monkeypatch.setattr(Path, "read_bytes", record)
    first, again = (load_images("mnist", raw.parents[1]) for _ in range(2))
    assert first["train"] is again["train"] and len(reads) == 4
    os.utime(reads[0], ns=(0, 0))
    load_images("mnist", raw.parents[1])
    assert len(reads) == 8


@pytest.mark.parametrize("name", ["cifar", "~nobody-of-that-name/images"])
def test_unknown_data_set_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=f"'{name}'.*mnist-5k"):
        resolve_dataset(name, tmp_path)


def test_mnist_5k_is_split_by_digit_without_overlap():
    train, val = load_images("mnist-5k", "nowhere", download=False).values()
    assert train.images.shape == (4000, 28, 28) and val.images.shape == (1000, 28, 28)
    assert train.digits.tolist() == 400 * list(range(10))
    assert val.digits.tolist() == 100 * list(range(10))
    assert [train.name, val.name] == ["MNIST-5k training split", "MNIST-5k validation split"]
    assert len(torch.cat([train.images, val.images]).view(5000, -1).unique(dim=0)) == 5000
