import numpy as np
import pytest
import torch

from cvae.figures.samples import (
    LABELS,
    MAX_STD,
    SAMPLE_ROWS,
    plot_diversity,
    plot_problem,
    plot_samples,
)
from cvae.figures.sheet import GAP, MISSING, OUTLINE, OUTLINE_WIDTH

from .test_sheet import assert_nothing_is_cut_off, dots_of, words_of

SCALE = 4  # 28 pixels come to 112 dots
SMALL_SCALE = 3


def known_left_half():
    known = torch.zeros(28, 28, dtype=torch.bool)
    known[:, :14] = True
    return known


def samples_figure(images, samples):
    truth = torch.rand(images, 28, 28)
    y_hat = torch.full_like(truth, 0.25)
    predictions = torch.full((samples, images, 28, 28), 0.75)
    figure = plot_samples(truth, known_left_half(), y_hat, predictions, title="a title")
    return figure, truth


@pytest.mark.parametrize("images, samples", [(1, 1), (3, 2), (12, 10)])
def test_rows_show_what_their_labels_say(images, samples):
    figure, truth = samples_figure(images, samples)
    sheet, words = dots_of(figure), list(words_of(figure))
    labels = [word for word, _, _ in words]
    assert labels == ["Inputs", "Truth", "NN"] + [f"CVAE {n}" for n in range(1, samples + 1)]
    known = known_left_half().numpy()[..., None]
    for word, _, y in words:
        top = y - 14 * SCALE
        for column in range(images):
            left = LABELS + column * (28 * SCALE + GAP)
            cell = sheet[top : top + 28 * SCALE : SCALE, left : left + 28 * SCALE : SCALE]
            expected = {
                "Inputs": np.array(MISSING) / 255,
                "Truth": truth[column].numpy()[..., None],
                "NN": 0.25,
            }.get(word, 0.75)
            given = np.broadcast_to(truth[column].numpy()[..., None], (28, 28, 3))
            expected = np.where(known, given, expected)
            for half in (
                np.s_[1:27, 1:13],
                np.s_[:, 14:],
            ):  # the outline lies between and around them
                np.testing.assert_allclose(cell[half], expected[half], atol=0.51 / 255)


@pytest.mark.parametrize("images, samples", [(1, 1), (10, 10), (30, 3)])
def test_nothing_of_the_samples_is_cut_off(images, samples):
    assert_nothing_is_cut_off(samples_figure(images, samples)[0])


def test_diversity_shows_mean_and_spread_of_all_samples():
    truth = torch.rand(3, 28, 28)
    known = known_left_half()
    samples = torch.rand(50, 3, 28, 28)
    y_hat = torch.full_like(truth, 0.25)
    figure = plot_diversity(truth, known, y_hat, samples, title="title", num_shown=10)
    assert_nothing_is_cut_off(figure)
    sheet, texts = dots_of(figure), {word: x for word, x, _ in words_of(figure)}
    assert list(texts)[:3] == ["Input", "Truth", "NN"] and len(texts) == 6
    big = SAMPLE_ROWS * SMALL_SCALE
    missing = (~known).numpy()
    tops = np.flatnonzero((sheet[:, texts["Input"]] != 1).any(-1))
    starts = [top for top in tops if top - 1 not in tops]
    assert len(starts) == 3
    for name, expected in (
        ("NN", y_hat),
        ("CVAE, mean", samples.mean(0)),
        (f"CVAE, std (0 to {MAX_STD})", samples.std(0, correction=0) / MAX_STD),
    ):
        for row, top in enumerate(starts):
            left = texts[name] - 14 * big
            cell = sheet[top : top + 28 * big : big, left : left + 28 * big : big, 0]
            np.testing.assert_allclose(
                cell[missing], expected[row].numpy()[missing], atol=0.51 / 255
            )


@pytest.mark.parametrize("num_images", [1, 2])
def test_problem_shows_each_pixel_once_in_what_is_given_and_what_is_not(num_images):
    figure = plot_problem(torch.rand(num_images, 28, 28))
    assert_nothing_is_cut_off(figure)
    names = [word for word, _, _ in words_of(figure)]
    assert names[:3] == ["1 quadrant", "2 quadrants", "3 quadrants"]
    sheet = dots_of(figure)
    blue = np.isclose(sheet * 255, MISSING).all(-1).sum()
    orange = np.isclose(sheet * 255, OUTLINE).all(-1).sum()
    sides = (
        (14 + 14) + (14 + 28) + (28 + 28)
    )  # across and down, of the known pixels of all three settings
    rims = 2 * sides * SCALE * OUTLINE_WIDTH - (4 + 4 + 4) * OUTLINE_WIDTH**2
    assert (blue, orange) == (num_images * 3 * 28 * 28 * SCALE**2, num_images * rims)
