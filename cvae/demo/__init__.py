"""A page that completes what you draw: ``demo.html``, one file without a server or a network."""

import base64
import hashlib
import json
import logging
from pathlib import Path
from string import Template
from typing import Any

import pyro
import torch
from torch import Tensor

from cvae.data import CVAEMNIST
from cvae.demo.weights import LOW_BITS, encode, extract
from cvae.evaluate import with_error
from cvae.experiment.console import is_expected, one_line
from cvae.experiment.metrics import changed_code, read_metrics
from cvae.experiment.models import find_model
from cvae.experiment.options import Config, DataConfig, setting_name
from cvae.experiment.pictures import choose_inputs
from cvae.experiment.table import describe_split
from cvae.files import FILES, SEED_FOLDER, DataError, FileError, atomic_write
from cvae.model import CVAE
from cvae.own_images import has_bright_background
from cvae.trained import TrainedCVAE

__all__ = ["find_folders", "write_demo", "write_demos"]

logger = logging.getLogger(__name__)

NUM_IMAGES = 40  # to start from
NUM_COMPARED = 4000  # training images among which neighbours are sought
OF_DATA = ("val_fraction", "subset", "holdout", "binarize", "batch_size")  # choose the images
ROWS = {  # of metrics.json, as the page names them
    "CVAE (importance sampling)": "CVAE, importance sampling",
    "CVAE (Monte Carlo)": "CVAE, upper bound",
    "NN (baseline)": "Baseline",
}


def write_demos(config: Config) -> None:
    """Write the page of each seed of a run; what hinders it is told in one warning."""
    pages, problems = [], dict[str, None]()
    model = find_model(config.model.model)
    for seed in config.seeds:
        folder, data = config.folder(seed), config.data
        if (folder / FILES["metrics"]).exists():
            try:
                pages.append(write_demo(folder, data.data_dir, data.dataset, model))
            except Exception as error:
                if not is_expected(error):
                    raise
                problems[one_line(error)] = None
    if problems:
        logger.warning("Warning: %s was not written: %s", FILES["demo"], "; ".join(problems))
    if pages:
        logger.info("To try it, open %s in a browser", ", ".join(map(str, pages)))


def find_folders(folder: Path) -> list[Path]:
    """Return the folder, or if it is of several seeds, those of the seeds.

    Raises:
        FileError: its ``metrics.json`` is missing or damaged.
    """
    runs = read_metrics(folder)["runs"]
    several = [folder / SEED_FOLDER.format(seed=run["seed"]) for run in runs]
    return several if len(several) > 1 else [folder]


def write_demo(
    folder: Path, data_dir: Path, dataset: str | None = None, model: type[CVAE] = CVAE
) -> Path:
    """Write ``demo.html`` with all settings whose weights a folder holds, and return its path.

    Args:
        folder, data_dir: of one seed of a finished run, and of the data sets' files.
        dataset: path of the run's images, if these are one's own.
        model: the class that was trained.

    Raises:
        DataError, UsageError: the data set of the run is not there, or holds other images.
        FileError: a file is missing, damaged, or of networks that the page does not compute.
        OSError: the page can't be written.
    """
    metrics, settings = read_metrics(folder), []
    try:
        (run,) = metrics["runs"]
        options = {name: metrics["arguments"].get(name) for name in OF_DATA}
        options = {name: value for name, value in options.items() if value is not None}
        dataset = dataset or metrics["dataset"]
        data = DataConfig(dataset=dataset, data_dir=data_dir, **options)
        models = {
            n: TrainedCVAE.load(folder, n, model=model)
            for n in (1, 2, 3)
            if f"q{n}" in run["results"] and (folder / FILES["cvae"].format(n=n)).exists()
        }
        if not models:
            raise FileError(f"{folder} holds no trained model that was evaluated")
        for n, trained in models.items():
            if changed := changed_code(metrics, n, trained.cvae):
                logger.warning("Warning: %s: %s", folder, changed)
        datasets, _, _ = data.get_data(min(models))
        for split, images_of_split in metrics["splits"].items():
            there = datasets[split].source.fingerprint()
            if images_of_split.get("fingerprint", there) != there:
                raise DataError(f"{dataset} holds other images than the run's: give --dataset")
        shape = datasets["train"].source.images.shape[1:]
        if any(trained.known.shape != shape for trained in models.values()):
            raise FileError("the data set holds images of another size than the model's")
        images = _choose_images(datasets, models[min(models)])
        for n, trained in models.items():
            settings.append(
                {
                    "known": n,
                    **_make_setting(trained, images),
                    **_rows(metrics["splits"], run["results"][f"q{n}"]),
                }
            )
        page: dict[str, Any] = {"shape": list(shape), "settings": settings}
        page |= {"recipe": metrics["recipe"], "seed": run["seed"]}
        page["examples"] = _text(images.numpy().tobytes())
        # Strokes are bright where the border is dark; other images are shown as they are.
        page["photo"] = has_bright_background(images.numpy())
        page["margins"] = _find_margins(255 - images if page["photo"] else images)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_expected(error):
            raise
        reason = (
            "is damaged, or of another version, or the model is one that the page can't compute"
        )
        raise FileError(f"{folder / FILES['metrics']} {reason}") from error
    content = _fill(page).encode()
    with atomic_write(folder / FILES["demo"]) as file:
        file.write(content)
    return folder / FILES["demo"]


def _choose_images(datasets: dict[str, CVAEMNIST], trained: TrainedCVAE) -> Tensor:
    """Choose images of the last split, uint8 of shape (images, h, w).

    All neighbours of the first have its label, so that it is easily read, and the model's answers
    are about as often of this label as of others.  Then come the ambiguous ones.
    """
    training, evaluated = datasets["train"], list(datasets.values())[-1]
    clear, *ambiguous = choose_inputs(training, evaluated, NUM_IMAGES - 1)
    chosen = [*ambiguous, clear]
    images, labels = evaluated.source.images[chosen], evaluated.source.digits[chosen]
    readable = (_nearest_labels(training, images, 20) == labels[:, None]).all(1)
    answers = 255 * trained.complete(images / 255, num_samples=12, seed=0)
    found = _nearest_labels(training, answers.flatten(0, 1), 1).view(12, -1)
    right = (found == labels).double().mean(0)
    first = int((readable * torch.minimum(right, 1 - right)).argmax())
    return torch.cat([images[first : first + 1], images[:first], images[first + 1 :]])


def _nearest_labels(training: CVAEMNIST, images: Tensor, count: int) -> Tensor:
    """Return the labels of the nearest training images, shape (images, count), as whole images."""
    compared = training.source.images[:NUM_COMPARED].flatten(1).float()
    distances = torch.cdist(images.flatten(1).float(), compared)
    nearest = distances.topk(min(count, len(compared)), largest=False).indices
    return training.source.digits[nearest]


def _find_margins(ink: Tensor) -> dict[str, int]:
    """Return how many columns or rows at each side together hold 1 % of the images' ink."""
    columns, rows = ink.double().sum((0, 1)), ink.double().sum((0, 2))
    sides = {"left": columns, "right": columns.flip(0), "top": rows, "bottom": rows.flip(0)}
    return {side: int((s.cumsum(0) < 0.01 * s.sum()).sum()) for side, s in sides.items()}


def _make_setting(trained: TrainedCVAE, images: Tensor) -> dict[str, Any]:
    """Return what the page needs to know of a model."""
    layers = extract(trained)
    return {
        "name": setting_name(trained.mask.num_quadrant_inputs) + " given",
        "mask": "".join("01"[known] for known in trained.known.flatten().tolist()),
        "activation": trained.cvae.prior_net.activation.__name__,
        "layers": [[name, *weight.shape] for name, (weight, _) in layers.items()],
        "lowBits": LOW_BITS,
        "weights": _text(encode(layers)),
        "check": _text(_predict(trained, images[0] / 255)),
    }


def _predict(trained: TrainedCVAE, image: Tensor) -> bytes:
    """Complete an image at the mean of z plus its standard deviation, to check the page by."""
    xs = trained.mask({"original": image[None, None]})["input"]
    with torch.no_grad(), pyro.get_param_store().scope():
        prior = trained.cvae.prior(xs)
        z = prior.mean + prior.stddev
        completion = pyro.condition(trained.cvae.model, {"z": z})(xs)
    return (255 * completion[0, ~trained.known.flatten()]).round().byte().numpy().tobytes()


def _rows(splits: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of the table that stands below the completions."""
    split, result = list(results.items())[-1]
    rows = []
    for row, name in ROWS.items():
        value = result["rows"][row]
        particles = value["num_particles"]
        samples = f" with {particles:,} samples of z" if particles else ""
        rows.append([name + samples, with_error(value["mean"], value["standard_error"])])
    images = describe_split(splits[split]["name"], splits[split]["images"])
    images += ", which also decided when to stop training" if split == "val" else ""
    return {"rows": rows, "images": images}


def _fill(page: dict[str, Any]) -> str:
    """Put all parts into one file, whose policy allows its own script and style and no other."""
    folder = Path(__file__).parent
    files = ("page.html", "page.css", "loading.js", "page.js")
    html, css, loading, js = ((folder / file).read_text("utf-8") for file in files)
    return Template(html).substitute(
        policy=f"default-src 'none'; style-src '{_hash(css)}'; "
        f"script-src '{_hash(loading)}' '{_hash(js)}'; base-uri 'none'; form-action 'none'",
        style=css,
        loading=loading,
        script=js,
        page=json.dumps(page).replace("<", "\\u003c"),  # so that no string ends the block
    )


def _hash(text: str) -> str:
    return f"sha256-{_text(hashlib.sha256(text.encode()).digest())}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
