"""The matrix products of the bare loop and nothing else: the floor under every way of doing it."""

from collections.abc import Sequence

import torch
from torch import Tensor

BATCH_SIZE = 128
ROWS_FORWARD = 1_000
ENCODER = [(784, 500), (500, 500), (500, 200), (500, 200)]
DECODER = [(200, 500), (500, 500), (500, 784)]
BASELINE = [(784, 500), (500, 500), (500, 784)]


class Layer:
    """One linear layer's products for a batch: forward, gradient of the weights, gradient of the inputs."""

    def __init__(self, rows: int, shape: tuple[int, int]) -> None:
        inputs, outputs = shape
        self.x, self.grad = torch.randn(rows, inputs), torch.randn(rows, outputs)
        self.weight = torch.randn(outputs, inputs)
        self.on_images = inputs == 784  # which need no gradient

    def forward(self) -> Tensor:
        return self.x @ self.weight.t()

    def backward(self) -> None:
        self.grad.t() @ self.x
        if not self.on_images:
            self.grad @ self.weight


class Products:
    """The products of an epoch and of the estimates.

    Args:
        images: how many to train on; a sixth as many validate.
    """

    def __init__(self, images: int = 60_000) -> None:
        self.images = images
        self.layers = {
            rows: {
                "baseline": [Layer(rows, shape) for shape in BASELINE],
                "prior": [Layer(rows, shape) for shape in ENCODER],
                "recognition": [Layer(rows, shape) for shape in ENCODER],
                "generation": [Layer(rows, shape) for shape in DECODER],
            }
            for rows in (BATCH_SIZE, ROWS_FORWARD)
        }

    def baseline_epoch(self) -> None:
        self._epoch(trained=["baseline"])

    def cvae_epoch(self) -> None:
        self._epoch(trained=["prior", "recognition", "generation"], frozen=["baseline"])

    def table(self, num_particles: int = 10) -> None:
        self._forward(["baseline"], self.images // 6)
        self.importance(num_particles)

    def importance(self, num_particles: int = 100) -> None:
        self._forward(["baseline", "prior", "recognition"], self.images // 6)
        self._forward(["generation"], self.images // 6 * num_particles)

    def _epoch(self, trained: list[str], frozen: Sequence[str] = ()) -> None:
        for _ in range(self.images // BATCH_SIZE):
            for net in (*trained, *frozen):
                for layer in self.layers[BATCH_SIZE][net]:
                    layer.forward()
            for net in trained:
                for layer in self.layers[BATCH_SIZE][net]:
                    layer.backward()
        self._forward([*trained, *frozen], self.images // 6)

    def _forward(self, nets: list[str], rows: int) -> None:
        for _ in range(rows // ROWS_FORWARD):
            for net in nets:
                for layer in self.layers[ROWS_FORWARD][net]:
                    layer.forward()
