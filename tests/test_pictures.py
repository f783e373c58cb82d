from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cvae.curves import TUTORIAL, training_table
from cvae.evaluate import Estimate, Evaluation
from cvae.options import parse_args
from cvae.pictures import Pictures
from cvae.progress import History

from .test_sheet import assert_nothing_is_cut_off, dots_of

EVALUATION = Evaluation(
    {"NN (baseline)": Estimate(99.46, 0.41, 200, 0), "CVAE (Monte Carlo)": Estimate(69.36, 0.22, 200, 7)}, {}
)


def pictures(dataset, words="-vi 4 -vs 2 -p 7"):
    return Pictures(parse_args(words.split()), 1, 0, dataset, [3, 5, 8], "these images and those")


def test_samples_are_titled_with_data_setting_and_both_figures(cvae, dataset):
    figure = pictures(dataset).samples(cvae, EVALUATION)
    assert_nothing_is_cut_off(figure)
    title = " ".join(figure.texts[0].get_text().replace("\u00a0", " ").split())
    assert title == (
        "first 200 of the MNIST-5k validation split, 200 images; 1 quadrant known (outlined) Negative CLL in nats per "
        "image, lower is better: NN 99.5 ± 0.4; CVAE 69.4 ± 0.2 (Monte Carlo, 7 particles)"
    )


def test_figures_are_the_same_whatever_was_drawn_before(cvae, dataset):
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        several = pictures(dataset)
        drawn.append([dots_of(several.diversity(cvae)), dots_of(several.samples(cvae, EVALUATION))])
    assert all((one == other).all() for one, other in zip(*drawn))


def test_diversity_is_of_the_ambiguous_inputs(cvae, dataset):
    figure = pictures(dataset).diversity(cvae)
    assert_nothing_is_cut_off(figure)
    alone = Pictures(parse_args([]), 1, 0, dataset, [3], "").diversity(cvae)  # where there is but one image
    assert dots_of(figure).shape[0] > 1.5 * dots_of(alone).shape[0]


@pytest.mark.parametrize(
    "dataset, words, shown", [("mnist", "", True), ("mnist", "--binarize", False), ("mnist-5k", "", False)]
)
def test_tutorials_figures_are_shown_where_they_are_of_the_same_images(dataset, words, shown):
    history = History([{"train": 3.0, "val": 2.0, "reconstruction": 1.0, "kl": 1.0, "seconds": 1.0}] * 2)
    images: Any = SimpleNamespace(name="images")
    figure = Pictures(parse_args(words.split()), 1, 0, images, [0], "images").training(
        training_table({"baseline": history, "CVAE": history}), dataset
    )
    lines = [str(line.get_label()) for axes in figure.axes for line in axes.lines]
    found = [label for label in lines if label.startswith("tutorial")]
    assert found == ([f"tutorial: {reference:.1f}" for reference in TUTORIAL[1]] if shown else [])
