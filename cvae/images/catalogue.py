"""The data sets by name.  Imports nothing that takes time, so that ``--help`` can list them at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CATALOGUE", "DATASETS", "MD5S", "VAL_FRACTION", "Source"]

VAL_FRACTION = 1 / 6  # of your own images


@dataclass(frozen=True)
class Source:
    """A data set that torchvision can download.

    Attributes:
        title: what tables and figures call it.
        class_name: of its class in ``torchvision.datasets``.
        arguments: of the class, besides folder, split and download.
        file_names: beginnings of the file names of the training images and the test images.
        transposed: rows and columns of the images are exchanged in the files.
    """

    title: str
    class_name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    file_names: tuple[str, str] = ("train", "t10k")
    transposed: bool = False

    def folder(self, data_dir: str | Path) -> Path:
        """Return the folder of its files, where torchvision puts them."""
        return Path(data_dir) / self.class_name / "raw"

    def files(self, data_dir: str | Path) -> list[Path]:
        """List its files: images and labels of the training set, then those of the test set."""
        labels = "labels-idx2-int" if self.class_name == "QMNIST" else "labels-idx1-ubyte"
        folder = self.folder(data_dir)
        return [folder / f"{name}-{end}" for name in self.file_names for end in ("images-idx3-ubyte", labels)]


def _emnist(split: str) -> Source:
    file_names = (f"emnist-{split}-train", f"emnist-{split}-test")
    return Source(f"EMNIST {split}", "EMNIST", {"split": split}, file_names, transposed=True)


# By the name on the command line.
CATALOGUE = {
    "mnist": Source("MNIST", "MNIST"),
    "fashion-mnist": Source("Fashion-MNIST", "FashionMNIST"),
    "kmnist": Source("KMNIST", "KMNIST"),
    "emnist-digits": _emnist("digits"),
    "emnist-letters": _emnist("letters"),
    "qmnist": Source("QMNIST", "QMNIST", file_names=("qmnist-train", "qmnist-test")),
}
DATASETS: tuple[str, ...] = (*CATALOGUE, "mnist-5k")

# Of unpacked files, which torchvision itself does not check.
MD5S = {
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "FashionMNIST/raw/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
