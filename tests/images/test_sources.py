import gzip
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
import torchvision.datasets
from PIL import Image
from torchvision.datasets import MNIST

from cvae.data import get_data
from cvae.errors import DataError
from cvae.images import sources
from cvae.images.catalogue import CATALOGUE, DATASETS
from cvae.images.sources import load_images, resolve_dataset


@pytest.mark.parametrize("train, value, count", [(True, 7, 60), (False, 9, 10)])
def test_mnist_is_read_from_its_files(mnist_dir, train, value, count):
    assert resolve_dataset("auto", mnist_dir) == "mnist"
    mnist = load_images("mnist", mnist_dir, train, download=False)
    assert mnist.images.dtype == torch.uint8 and mnist.images.shape == (count, 28, 28)
    assert (mnist.images == value).all()
    assert mnist.digits.dtype == torch.int64 and mnist.digits.tolist() == [
        item % 10 for item in range(count)
    ]


@pytest.mark.parametrize("name", [path.name for path in CATALOGUE["mnist"].files("")])
def test_truncated_or_altered_file_is_named(mnist_dir, name):
    path = mnist_dir / "MNIST" / "raw" / name
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        for dataset in ("auto", "mnist"):
            with pytest.raises(
                DataError, match=f"{name} is not the original .its checksum differs"
            ):
                load_images(resolve_dataset(dataset, mnist_dir), mnist_dir, True, download=True)


def test_missing_mnist_without_download_is_an_error(tmp_path):
    with pytest.raises(DataError, match="MNIST is not in .*raw: allow the download"):
        load_images("mnist", tmp_path, True, download=False)


def test_failed_download_is_an_error_for_mnist(tmp_path):
    with pytest.raises(DataError, match="can't be downloaded .*(refused|Error downloading)"):
        load_images("mnist", tmp_path, True, download=True)


def test_failed_download_falls_back_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="(?s)can't be downloaded.*Using MNIST-5k instead"):
        assert resolve_dataset("auto", tmp_path) == "mnist-5k"


@pytest.mark.parametrize("there", [".", "data", "data/MNIST", "data/MNIST/raw"])
@pytest.mark.parametrize("dataset", ["auto", "mnist"])
def test_failed_download_leaves_no_folder_that_was_not_there(tmp_path, monkeypatch, there, dataset):
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = set(tmp_path.rglob("*"))
    if dataset == "auto":
        with pytest.warns(UserWarning, match="Using MNIST-5k"):
            resolve_dataset("auto", "data")
    else:
        with pytest.raises(DataError, match="can't be downloaded"):
            load_images("mnist", "data", True, download=True)
    assert set(tmp_path.rglob("*")) == before


def test_failed_download_leaves_the_files_it_finished(tmp_path, monkeypatch):
    packed = gzip.compress(b"images")
    monkeypatch.setattr(
        MNIST, "resources", [("a.gz", hashlib.md5(packed).hexdigest()), ("b.gz", "")]
    )
    with _serving({"a.gz": packed}) as address:
        monkeypatch.setattr(MNIST, "mirrors", [address])
        with pytest.raises(DataError, match="can't be downloaded"):
            load_images("mnist", tmp_path / "data", True, download=True)
    assert (tmp_path / "data/MNIST/raw/a").read_bytes() == b"images"


def recorded(monkeypatch, owner, name):
    """Record the paths that a function is called with."""
    paths, function = [], getattr(owner, name)

    def record(path, **options):
        paths.append(path)
        return function(path, **options)

    monkeypatch.setattr(owner, name, record)
    return paths


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_files_are_checked_once_until_they_change(mnist_dir, monkeypatch, name):
    files = CATALOGUE[name].files(mnist_dir)
    if name == "kmnist":
        write_idx(CATALOGUE[name], mnist_dir)
        for path in files:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    reads = recorded(monkeypatch, Path, "read_bytes")
    loaded = [get_data(n, 8, dataset=name, data_dir=str(mnist_dir))[0] for n in (1, 2, 3)]
    assert [path for path in reads if path in files] == files and len(set(reads)) == len(reads)
    assert all(each["val"].original.images is loaded[0]["val"].original.images for each in loaded)
    os.utime(files[0], ns=(0, 0))
    load_images(name, mnist_dir, True, download=False)
    files[1].write_bytes(b"damaged")
    with pytest.raises(DataError, match="checksum differs"):
        load_images(name, mnist_dir, False, download=False)
    assert [path for path in reads if path in files] == [*files, *files, *files[:2]]


def test_only_one_data_set_stays_in_memory(mnist_dir):
    first = weakref.ref(load_images("mnist", mnist_dir, True, download=False).images)
    assert first() is not None
    load_images("mnist-5k", mnist_dir, True, download=False)
    assert first() is None


def test_own_images_are_read_once_until_one_of_them_changes(tmp_path, monkeypatch):
    """Even if the folder itself stays as it is."""
    for number in range(4):
        Image.new("L", (6, 4), 9).save(tmp_path / f"{number}.png")
    opened = recorded(monkeypatch, Image, "open")
    for _ in range(3):
        assert (
            get_data(1, 2, dataset=str(tmp_path), val_fraction=0.5)[0]["train"].original.images == 9
        ).all()
    assert len(opened) == 4
    for number in range(4):
        Image.new("L", (6, 4), 200).save(tmp_path / f"{number}.png", dpi=(9, 9))  # of another size
    assert (load_images(str(tmp_path), "", True, False, 0.5).images == 200).all() and len(
        opened
    ) == 8


@pytest.mark.parametrize(
    "size, test_size, complaint",
    [
        (
            (27, 28),
            (27, 28),
            "KMNIST training set holds images of 27 x 28 pixels: height and width must be even",
        ),
        (
            (28, 28),
            (28, 5),
            "KMNIST test set holds images of 28 x 5 pixels: height and width must be even",
        ),
        (
            (28, 28),
            (26, 28),
            "train-images.* and t10k-images.* hold images of 28 x 28 and 26 x 28 pixels",
        ),
    ],
)
def test_sizes_are_even_and_those_of_all_images(tmp_path, size, test_size, complaint):
    source = CATALOGUE["kmnist"]
    write_idx(source, tmp_path)
    for path, (height, width), count in zip(
        source.files(tmp_path)[::2], (size, test_size), (12, 5)
    ):
        path.write_bytes(
            struct.pack(">IIII", 2051, count, height, width) + bytes(count * height * width)
        )
    with pytest.raises(DataError, match=complaint):
        get_data(1, 8, dataset="kmnist", data_dir=tmp_path)


def write_idx(source, folder, seed=0):
    """Write files in the format of a data set, with random images: 12 to train, 5 to test."""
    generator = torch.Generator().manual_seed(seed)
    for path, count, images in zip(source.files(folder), (12, 12, 5, 5), (True, False) * 2):
        path.parent.mkdir(parents=True, exist_ok=True)
        if images:
            content = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
            header = struct.pack(">IIII", 2051, count, 28, 28)
        elif path.name.endswith("idx2-int"):
            content = torch.arange(count)[:, None].repeat(1, 8)
            header = struct.pack(">III", 3074, count, 8)
        else:
            content, header = (
                torch.arange(count, dtype=torch.uint8),
                struct.pack(">II", 2049, count),
            )
        values = content.numpy().astype(">i4") if content.dtype == torch.int64 else content.numpy()
        path.write_bytes(header + values.tobytes())


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_data_set_is_read_from_its_files(tmp_path, monkeypatch, name):
    """What torchvision's own class reads, upright."""
    monkeypatch.setattr(sources, "MD5S", {})
    source = CATALOGUE[name]
    write_idx(source, tmp_path)
    for train, count in ((True, 12), (False, 5)):
        ours = load_images(name, tmp_path, train, download=False)
        data_set = getattr(torchvision.datasets, source.class_name)
        theirs = data_set(root=str(tmp_path), train=train, download=False, **source.arguments)
        expected = theirs.data.transpose(1, 2) if "emnist" in name else theirs.data
        assert (
            len(ours) == count
            and torch.equal(ours.images, expected)
            and ours.images.is_contiguous()
        )
        assert ours.digits.tolist() == list(range(count))
        assert ours.name == f"{source.title} {'training' if train else 'test'} set"


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_data_set_that_can_not_be_downloaded_is_an_error(tmp_path, name):
    with pytest.raises(
        DataError, match="can't be downloaded .*(refused|Error downloading).*: put its files there"
    ):
        load_images(name, tmp_path, True, download=True)


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "labels", "empty"])
def test_damaged_files_without_known_md5_are_refused(tmp_path, damage):
    source = CATALOGUE["kmnist"]
    write_idx(source, tmp_path)
    images, labels, *_ = source.files(tmp_path)
    content = images.read_bytes()
    if damage == "cut":
        images.write_bytes(content[:-1])
    elif damage == "longer":
        images.write_bytes(content + b"x")
    elif damage == "header":
        images.write_bytes(b"\0\0\x08\x07" + content[4:])
    elif damage == "empty":
        images.write_bytes(b"")
    else:
        labels.write_bytes(struct.pack(">II", 2049, 3) + b"abc")
    with pytest.raises(
        DataError, match="train-images-idx3-ubyte or train-labels-idx1-ubyte is damaged"
    ):
        load_images("kmnist", tmp_path, True, download=True)


def test_files_are_compared_with_their_archives(tmp_path):
    source = CATALOGUE["kmnist"]
    write_idx(source, tmp_path)
    path = source.files(tmp_path)[0]
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    load_images("kmnist", tmp_path, True, download=False)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))  # clocks of files are too coarse for a test
    with pytest.raises(
        DataError, match="train-images-idx3-ubyte is not the original .its checksum differs"
    ):
        load_images("kmnist", tmp_path, True, download=False)


def test_packed_files_are_unpacked(mnist_dir):
    """By whatever program they were packed: what counts is what is in them."""
    for path in CATALOGUE["mnist"].files(mnist_dir):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    assert len(load_images("mnist", mnist_dir, True, download=False)) == 60
    path.with_name(path.name + ".gz").write_bytes(b"\x1f\x8b no archive")
    path.unlink()
    with pytest.raises(
        DataError, match="t10k-labels-idx1-ubyte can't be read, or unpacked from its .gz file"
    ):
        load_images("mnist", mnist_dir, True, download=True)


def test_legacy_files_of_torchvision_are_not_read(mnist_dir):
    """Where these lie, torchvision reads them instead of the files that were checked."""
    (mnist_dir / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save(
            (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3)),
            mnist_dir / "MNIST/processed" / name,
        )
    assert len(load_images("mnist", mnist_dir, True, download=True)) == 60


def test_silent_server_does_not_hang_the_download(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.getsockname()[1]}/"])
        monkeypatch.setattr(sources, "SOCKET_TIMEOUT", 0.2)
        with pytest.raises(DataError, match="timed out"):
            load_images("mnist", tmp_path, True, download=True)
    assert socket.getdefaulttimeout() is None


def test_download_is_unpacked_and_checked(mnist_dir, tmp_path, monkeypatch):
    raw = mnist_dir / "MNIST" / "raw"
    packed = {path.name + ".gz": gzip.compress(path.read_bytes()) for path in raw.iterdir()}
    for path in raw.iterdir():
        path.unlink()
    monkeypatch.setattr(
        MNIST, "resources", [(name, hashlib.md5(data).hexdigest()) for name, data in packed.items()]
    )
    with _serving(packed) as address:
        monkeypatch.setattr(MNIST, "mirrors", [address])
        assert resolve_dataset("auto", mnist_dir) == "mnist"
    assert len(load_images("mnist", mnist_dir, True, download=False)) == 60


class _serving:
    """Serve files by name over HTTP on this machine, in a thread."""

    def __init__(self, files):
        from http.server import BaseHTTPRequestHandler, HTTPServer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                content = files[self.path.lstrip("/")]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'cifar'.*mnist-5k"):
        resolve_dataset("cifar", tmp_path)


def test_mnist_5k_is_split_by_digit_without_overlap():
    train = load_images("mnist-5k", "nowhere", True, download=False)
    val = load_images("mnist-5k", "nowhere", False, download=False)
    assert train.images.shape == (4000, 28, 28) and val.images.shape == (1000, 28, 28)
    assert train.images.dtype == torch.uint8 and train.images.max() == 255
    assert train.images.is_contiguous() and val.images.is_contiguous()
    assert (
        train.digits.bincount().tolist() == [400] * 10
        and val.digits.bincount().tolist() == [100] * 10
    )
    assert train.digits[:20].tolist() == 2 * list(range(10))
    assert train.name == "MNIST-5k training split" and val.name == "MNIST-5k validation split"
    everything = torch.cat([train.images, val.images]).view(5000, -1)
    assert len(everything.unique(dim=0)) == 5000


def test_catalogue_is_imported_without_libraries_that_take_time():
    check = "import sys, cvae.images.catalogue; print({'torch', 'torchvision', 'numpy'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout
        == "set()\n"
    )
    assert DATASETS == (*CATALOGUE, "mnist-5k")
