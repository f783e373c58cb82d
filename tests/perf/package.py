"""Epochs and table of this package, or of an older version of it, as ``main.py`` makes them.

    python tests/perf/package.py CHECKOUT DATA_DIR IMAGES QUADRANTS

answers each line of its input, the name of a task, with the seconds that it took.
"""

import sys
import time
from importlib import import_module
from typing import Any

TASKS = ("baseline_epoch", "cvae_epoch", "table")


class Package:
    """Epochs and table over the first images of MNIST; a sixth as many validate."""

    def __init__(self, root: str, images: int = 60_000, num_quadrant_inputs: int = 1) -> None:
        # Here, for the probe to choose which version is imported.
        from cvae import data, estimators, train
        from cvae.baseline import BaselineNet
        from cvae.model import CVAE

        try:
            config, loader = import_module("cvae.config").TrainingConfig, data
        except ImportError:  # the layout of before
            config = import_module("cvae.training.settings").TrainingSettings
            loader = import_module("cvae.images.loader")
        self.estimators, self.train, self.one_epoch = estimators, train, config(num_epochs=1)
        options: Any = dict(dataset="mnist", data_dir=root)
        few, _, _ = data.get_data(num_quadrant_inputs, 128, subset=images // 6, **options)
        many, loaders, _ = data.get_data(num_quadrant_inputs, 128, subset=images, **options)
        self.val = few["val"]
        self.loaders = {"train": loaders["train"], "val": loader.make_loader(self.val, 1000)}
        self.baseline = BaselineNet(500, 500)
        self.cvae: Any = CVAE(200, 500, 500, self.baseline)
        for split in (many["train"], self.val):
            if hasattr(split, "cache_baseline_predictions"):
                split.cache_baseline_predictions(self.cvae.baseline_predictions)

    def baseline_epoch(self) -> float:
        history = self.train.train_baseline(self.baseline, self.loaders, self.one_epoch)
        return history.epochs[0]["val"]

    def cvae_epoch(self) -> float:
        return self.train.train_cvae(self.cvae, self.loaders, self.one_epoch).epochs[0]["val"]

    def table(self) -> float:
        nll = self.estimators.baseline_nll(self.baseline, self.val)
        bound = self.estimators.monte_carlo
        self.estimators.estimate_cll(self.cvae, self.val, num_particles=10, reduction=bound)
        return nll.mean().item()


def seconds(way: Any, task: str) -> float:
    start = time.perf_counter()
    getattr(way, task)()
    return time.perf_counter() - start


if __name__ == "__main__":
    checkout, data_dir, images, quadrants = sys.argv[1:]
    sys.path.insert(0, checkout)
    package = Package(data_dir, int(images), int(quadrants))
    for line in sys.stdin:
        print(seconds(package, line.strip()), flush=True)
