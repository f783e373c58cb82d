import io

import numpy as np
import pandas as pd
import pytest

from cvae.figures.curves import TUTORIAL, plot_training, training_table
from cvae.training.history import History

from .test_sheet import drawn

HISTORIES = {
    "baseline": History([{"train": 9.0, "val": val, "seconds": 1.0} for val in (8.0, 6.0, 7.0)]),
    "CVAE": History(
        [
            {"train": 5.0, "val": kl + 4.0, "reconstruction": 4.0, "kl": kl, "seconds": 2.0}
            for kl in (3.0, 1.0, 0.5, 1.5)
        ]
    ),
}


def losses_of(line):
    return np.asarray(line.get_ydata()).tolist()


def test_table_has_every_epoch_and_marks_the_best_one():
    text = training_table(HISTORIES).to_csv(index=False)
    table = pd.read_csv(io.StringIO(text))
    assert list(zip(table["net"], table["epoch"])) == [("baseline", e) for e in (1, 2, 3)] + [
        ("CVAE", e) for e in (1, 2, 3, 4)
    ]
    assert table["best"].tolist() == [False, True, False, False, False, True, False]
    losses = table[[name for name in table if "nats per image" in name]]
    cvae = losses[table["net"] == "CVAE"]
    assert len(losses.columns) == 4
    terms = (
        cvae["validation reconstruction (nats per image)"] + cvae["validation KL (nats per image)"]
    )
    assert (
        terms.tolist() == cvae["validation loss (nats per image)"].tolist() == [7.0, 5.0, 4.5, 5.5]
    )
    assert losses[table["net"] == "baseline"].isna().sum().tolist() == [0, 0, 3, 3]
    assert not any(
        "second" in name for name in table
    )  # so that the file does not depend on the time


@pytest.mark.parametrize("references", [None, dict(zip(("baseline", "CVAE"), TUTORIAL[3]))])
def test_figure_shows_the_losses_and_the_references(references):
    figure = plot_training(training_table(HISTORIES), "a long title " * 30, references)
    picture, renderer = drawn(figure)
    baseline, bound, terms = figure.axes
    curve = {line.get_label(): losses_of(line) for line in bound.lines}
    assert curve["validation loss"] == [7.0, 5.0, 4.5, 5.5] and curve["best: epoch 3"] == [4.5]
    shown = [losses_of(line) for line in terms.lines]
    assert all(losses in shown for losses in ([4.0] * 4, [3.0, 1.0, 0.5, 1.5], [4.0], [0.5]))
    for axes, name in ((baseline, "baseline"), (bound, "CVAE")):
        lines = [loss for loss, *rest in map(losses_of, axes.lines) if set(rest) == {loss}]
        assert (references is not None) == ((references or {}).get(name) in lines)
    for text in [
        *figure.texts,
        *(axes.title for axes in figure.axes),
        *(axes.yaxis.label for axes in figure.axes),
    ]:
        box = text.get_window_extent(renderer)
        assert 0 <= box.x0 and box.x1 <= figure.bbox.x1 and 0 <= box.y0 and box.y1 <= figure.bbox.y1


def test_lines_differ_without_colours():
    bound = plot_training(training_table(HISTORIES), "title").axes[1]
    styles = {line.get_linestyle() for line in bound.lines if line.get_linestyle() != "None"}
    assert len(styles) == 2


def test_a_single_epoch_can_be_seen():
    one = {net: History(history.epochs[:1]) for net, history in HISTORIES.items()}
    for axes in plot_training(training_table(one), "title").axes:
        assert all(line.get_marker() != "None" for line in axes.lines)
