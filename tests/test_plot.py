import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cvae.plot import MISSING, plot_samples


def figure_of(images, samples, known=None):
    known = known_left_half() if known is None else known
    truth = torch.rand(images, 28, 28)
    inputs = torch.where(known, truth, -1)
    figure = plot_samples(
        inputs,
        truth,
        torch.full_like(truth, 0.25),
        torch.full((samples, images, 28, 28), 0.75),
        title="a title",
    )
    return figure, truth


def known_left_half():
    known = torch.zeros(28, 28, dtype=torch.bool)
    known[:, :14] = True
    return known


@pytest.mark.parametrize("images, samples", [(1, 1), (3, 2), (12, 10)])
def test_rows_show_what_their_labels_say(images, samples):
    figure, truth = figure_of(images, samples)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["Inputs", "Truth", "NN"] + [f"CVAE {n}" for n in range(1, samples + 1)]
    sheet = axes.images[0].get_array()
    known = known_left_half().numpy()
    for label, middle in zip(labels, axes.get_yticks()):
        for column in range(images):
            cell = sheet[int(middle) - 14 : int(middle) + 14, column * 30 : column * 30 + 28]
            expected = {
                "Inputs": np.array(MISSING),
                "Truth": truth[column].numpy()[..., None],
                "NN": 0.25,
            }.get(label, 0.75)
            expected = np.broadcast_to(expected, (28, 28, 3))
            given = np.broadcast_to(truth[column].numpy()[..., None], (28, 28, 3))
            np.testing.assert_allclose(cell, np.where(known[..., None], given, expected), atol=1e-6)


@pytest.mark.parametrize("images, samples", [(1, 1), (10, 10), (30, 3)])
def test_nothing_is_cut_off_and_labels_stand_beside_their_rows(images, samples):
    figure, _ = figure_of(images, samples)
    (axes,) = figure.axes
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    page = figure.get_tightbbox(renderer)
    for text in [*axes.get_yticklabels(), axes.title]:
        box = text.get_window_extent(renderer).transformed(figure.dpi_scale_trans.inverted())
        assert page.x0 - 0.01 <= box.x0 and box.x1 <= page.x1 + 0.01
        assert page.y0 - 0.01 <= box.y0 and box.y1 <= page.y1 + 0.01
    for label, middle in zip(axes.get_yticklabels(), axes.get_yticks()):
        box = label.get_window_extent(renderer)
        row = axes.transData.transform((0, middle))[1]
        assert abs((box.y0 + box.y1) / 2 - row) < 5  # pixels
        assert box.x1 < axes.transData.transform((0, middle))[0]
