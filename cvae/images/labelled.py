"""Images with their digits and the name that tables and figures call them by."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cvae.errors import DataError

__all__ = ["LabelledImages"]

BLACK_AND_WHITE = 128  # the first of 256 greys at or above 0.5


@dataclass(frozen=True)
class LabelledImages:
    """Images in memory, one digit or other label for each.

    Attributes:
        images: uint8 of shape (N, h, w) in [0, 255]; h and w are even.
        digits: int64 of shape (N,).
        name: what tables and figures call them, as ``MNIST test set``.

    Raises:
        DataError: height or width is odd, or 0.
    """

    images: Tensor
    digits: Tensor
    name: str

    def __post_init__(self) -> None:
        height, width = self.images.shape[1:]
        if height % 2 or width % 2 or not height or not width:
            raise DataError(f"{self.name} holds images of {height} x {width} pixels: height and width must be even")

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: slice | range) -> "LabelledImages":
        """Select consecutive images and name them so: ``first 40 of the MNIST test set``."""
        rows = range(len(self))[slice(rows.start, rows.stop)]
        if len(rows) == len(self):
            return self
        which = f"images {rows.start + 1:,} to" if rows.start else "first"
        name = f"{which} {rows.stop:,} of the {self.name}"
        return LabelledImages(self.images[rows.start : rows.stop], self.digits[rows.start : rows.stop], name)

    def binarized(self) -> "LabelledImages":
        """Turn each pixel black or white, with the threshold at 0.5, and say so in the name."""
        images = (self.images >= BLACK_AND_WHITE).to(torch.uint8) * 255
        return replace(self, images=images, name=f"{self.name}, binarized")

    def to(self, device: str | torch.device) -> "LabelledImages":
        """Move images and digits to a device."""
        return replace(self, images=self.images.to(device), digits=self.digits.to(device))

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of the images."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()[:16]
