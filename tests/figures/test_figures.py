import io
from dataclasses import replace

import pytest
import torch

from cvae.evaluate import Estimate, Evaluation
from cvae.figures import figures
from cvae.figures.animation import Animation
from cvae.figures.curves import TUTORIAL, training_table
from cvae.figures.figures import (
    draw_figures,
    make_diversity_figure,
    make_samples_figure,
    make_training_figure,
    wants_animation,
)
from cvae.run.settings import Settings
from cvae.training.history import History

from .test_sheet import assert_nothing_is_cut_off, dots_of

EVALUATION = Evaluation(
    {
        "NN (baseline)": Estimate(99.46, 0.41, 200, 0),
        "CVAE (Monte Carlo)": Estimate(69.36, 0.22, 200, 7),
    },
    {},
)
SETTINGS = Settings(num_images=4, num_samples=2, num_particles=7)
INPUTS = [3, 5, 8]


def history(num_epochs=2, snapshots=()):
    epoch = {"train": 3.0, "val": 2.0, "reconstruction": 1.0, "kl": 1.0, "seconds": 1.0}
    return History([epoch] * num_epochs, list(snapshots))


def test_samples_are_titled_with_data_setting_and_both_estimates(cvae, dataset):
    figure = make_samples_figure(cvae, dataset, EVALUATION, SETTINGS, 1, seed=0)
    assert_nothing_is_cut_off(figure)
    title = " ".join(figure.texts[0].get_text().replace("\u00a0", " ").split())
    assert title == (
        "first 200 of the MNIST-5k validation split, 200 images; 1 quadrant known (outlined) Negative CLL in "
        "nats per image, lower is better: NN 99.5 ± 0.4; CVAE 69.4 ± 0.2 (Monte Carlo, 7 particles)"
    )


def test_figures_are_the_same_whatever_was_drawn_before(cvae, dataset):
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        diversity = make_diversity_figure(cvae, dataset, INPUTS, 1, seed=0)
        samples = make_samples_figure(cvae, dataset, EVALUATION, SETTINGS, 1, seed=0)
        drawn.append([dots_of(diversity), dots_of(samples)])
    assert all((one == other).all() for one, other in zip(*drawn))


def test_diversity_is_of_the_ambiguous_inputs(cvae, dataset):
    figure = make_diversity_figure(cvae, dataset, INPUTS, 1, seed=0)
    assert_nothing_is_cut_off(figure)
    alone = make_diversity_figure(cvae, dataset, [3], 1, seed=0)  # where there is but one image
    assert dots_of(figure).shape[0] > 1.5 * dots_of(alone).shape[0]


@pytest.mark.parametrize(
    "changed, shown",
    [
        ({}, True),
        ({"binarize": True}, False),
        ({"dataset": "mnist-5k"}, False),
        ({"subset": 9}, False),
        ({"holdout": 9}, False),
    ],
)
def test_tutorials_results_are_shown_where_they_are_of_the_same_images(changed, shown):
    table = training_table({"baseline": history(), "CVAE": history()})
    figure = make_training_figure(
        table, Settings(**{"dataset": "mnist", **changed}), 1, 0, "images"
    )
    lines = [str(line.get_label()) for axes in figure.axes for line in axes.lines]
    found = [label for label in lines if label.startswith("tutorial")]
    assert found == ([f"tutorial: {reference:.1f}" for reference in TUTORIAL[1]] if shown else [])


def test_figures_of_all_settings_are_written_with_the_first_one(
    cvae, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(figures, "DPI", 40)
    monkeypatch.setattr(figures, "NUM_DIVERSITY_SAMPLES", 20)
    monkeypatch.setattr(figures.shutil, "which", lambda program: None)
    snapshots = torch.zeros(2, 3, 3, 28, 28, dtype=torch.uint8)
    histories = {"baseline": history(), "CVAE": history(snapshots=snapshots)}

    def written(n, animate):
        before = set(tmp_path.iterdir())
        draw_figures(
            tmp_path,
            Settings(num_quadrant_inputs=(3, 1), num_images=4, num_samples=2),
            cvae,
            dataset,
            INPUTS,
            EVALUATION,
            histories,
            num_quadrant_inputs=n,
            seed=0,
            splits="images",
            animate=animate,
        )
        return {path.name for path in set(tmp_path.iterdir()) - before}

    each = ("training_q{}.csv", "training_q{}.png", "cvae_plot_q{}.png", "diversity_q{}.png")
    assert written(3, False) == {name.format(3) for name in each} | {"problem.png", "model.png"}
    assert written(1, True) == {name.format(1) for name in each} | {"training_q1.gif"}


@pytest.mark.parametrize(
    "animate, images, wanted",
    [(None, 29_999, False), (None, 30_000, True), (True, 1, True), (False, 10**5, False)],
)
def test_large_data_sets_are_animated_unless_told_otherwise(animate, images, wanted):
    assert wants_animation(Settings(animate=animate), images) == wanted


@pytest.mark.parametrize("name", ["dol$x_1^{y'", "数字", "a\x07b", "caf\udce9", "\\frac{"])
def test_names_from_outside_are_drawn_as_plain_text(cvae, dataset, name, monkeypatch):
    monkeypatch.setattr(dataset, "original", replace(dataset.original, name=name))
    monkeypatch.setattr(figures, "NUM_DIVERSITY_SAMPLES", 20)
    table = training_table({"baseline": history(), "CVAE": history()})
    truth = torch.rand(3, 28, 28)
    film = Animation(
        [2.0], [torch.zeros(1, 3, 28, 28, dtype=torch.uint8)], truth, truth[0] > 0.5, name
    )
    assert len(film.render()) == 1
    for figure in (
        make_samples_figure(cvae, dataset, EVALUATION, SETTINGS, 1, seed=0),
        make_diversity_figure(cvae, dataset, INPUTS, 1, seed=0),
        make_training_figure(table, SETTINGS, 1, 0, name),
    ):
        figure.savefig(io.BytesIO())
        plain = "".join(
            each if each.isascii() and each.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for each in name
        )
        assert plain in figure.texts[0].get_text()
