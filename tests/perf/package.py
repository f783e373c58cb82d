"""This package's epochs and estimates, as ``main.py`` runs them."""

from cvae.baseline import BaselineNet
from cvae.data import VALIDATION_BATCH_SIZE, get_data
from cvae.estimators import baseline_nll, estimate_cll, monte_carlo
from cvae.images.loader import make_loader
from cvae.model import CVAE
from cvae.train import train_baseline, train_cvae
from cvae.training.settings import TrainingSettings


class Package:
    """Epochs and estimates over the first images of MNIST, one known quadrant.

    Args:
        root: folder that holds ``MNIST/raw``.
        images: how many to train on; at most 10,000 validate.
        hidden: units of each hidden layer.
    """

    def __init__(self, root: str, images: int = 60_000, hidden: int = 500) -> None:
        self.datasets, self.loaders, _ = get_data(
            1, 128, dataset="mnist", data_dir=root, subset=images
        )
        val = self.datasets["val"]
        val.original = val.original.select(slice(images // 6))
        self.loaders["val"] = make_loader(self.datasets["val"], VALIDATION_BATCH_SIZE)
        self.baseline = BaselineNet(hidden, hidden)
        self.cvae = CVAE(200, hidden, hidden, self.baseline)
        for data in self.datasets.values():
            data.cache_baseline_predictions(self.cvae.baseline_predictions)

    def baseline_epoch(self) -> None:
        train_baseline(self.baseline, self.loaders, TrainingSettings(num_epochs=1))

    def cvae_epoch(self) -> None:
        train_cvae(self.cvae, self.loaders, TrainingSettings(num_epochs=1))

    def table(self, num_particles: int = 10) -> None:
        baseline_nll(self.baseline, self.datasets["val"])
        estimate_cll(
            self.cvae, self.datasets["val"], num_particles=num_particles, reduction=monte_carlo
        )

    def importance(self, num_particles: int = 100) -> None:
        estimate_cll(self.cvae, self.datasets["val"], num_particles=num_particles)
