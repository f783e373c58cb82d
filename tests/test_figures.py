"""What the dots of a figure are, and what its curves and texts say."""

import io
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.style import library
from PIL import Image

from cvae import figures
from cvae.experiment.animation import make_gif
from cvae.figures import GAP, MARGIN, MISSING, OUTLINE, save_figure, tile, training_table
from cvae.history import History

HISTORIES = {
    "baseline": [{"train": 9.0, "val": val, "seconds": 1.0} for val in (8.0, 6.0, 7.0)],
    "CVAE": [
        {"train": 5.0, "val": kl + 4, "reconstruction": 4.0, "kl": kl}
        for kl in (3.0, 1.0, 0.5, 1.5)
    ],
}
BEST = {"baseline": 2, "CVAE": 3}


def greys(*shape):
    """Images of grey values that a file can hold exactly."""
    return torch.randint(0, 256, shape) / 255


def bottom_left(height, width):
    known = torch.zeros(height, width, dtype=torch.bool)
    known[height // 2 :, : width // 2] = True
    return known


def samples_figure(images=3, samples=2, size=(28, 28), title="title"):
    truth, known = greys(images, *size), bottom_left(*size)
    y_hat, drawn = greys(images, *size), greys(samples, images, *size)
    return figures.plot_samples(truth, known, y_hat, drawn, title), truth, known, y_hat, drawn


def diversity_figure(truth, samples, title="title", **options):
    known = bottom_left(*truth.shape[1:])
    return figures.plot_diversity(
        truth, known, torch.full_like(truth, 0.2), samples, title, **options
    )


def saved_dots(figure, tmp_path):
    """The dots of a saved figure as a file holds them."""
    save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        return np.asarray(picture.convert("RGB"))


def is_colour(dots, colour):
    return (dots == colour).all(-1)


@pytest.mark.parametrize("height, width, scale", [(28, 28, 4), (28, 20, 3), (6, 4, 1)])
def test_tile_shows_each_pixel_as_a_square_of_its_grey(height, width, scale):
    images = greys(2, 3, height, width)
    picture = tile(images, scale)
    down, across = height * scale + GAP, width * scale + GAP
    assert picture.shape == (2 * down - GAP, 3 * across - GAP, 3) and picture.dtype == np.uint8
    for row in range(2):
        for column in range(3):
            cell = picture[row * down :, column * across :][: down - GAP, : across - GAP]
            squares = cell.reshape(height, scale, width, scale, 3)
            expected = (images[row, column] * 255).round().numpy()[:, None, :, None, None]
            assert (squares == expected).all()
    assert (picture[down - GAP : down] == 255).all()
    assert (picture[:, across - GAP : across] == 255).all()


def test_outline_is_two_dots_inside_the_known_region_and_hides_nothing_else():
    known = ~bottom_left(8, 8)
    picture = tile(torch.zeros(1, 1, 8, 8).masked_fill(~known, torch.nan), 5, known)
    inside = np.pad(known.numpy().repeat(5, 0).repeat(5, 1), 2)
    for (y, x), outlined in np.ndenumerate(is_colour(picture, OUTLINE)):
        around = inside[y : y + 5, x : x + 5]
        assert outlined == (around[2, 2] and not around.all())
    assert (is_colour(picture, MISSING) == ~inside[2:-2, 2:-2]).all()
    assert not is_colour(tile(torch.zeros(1, 1, 8, 8), 5), OUTLINE).any()


@pytest.mark.parametrize(
    "images, samples, size", [(3, 2, (28, 28)), (1, 1, (32, 32)), (2, 1, (28, 20))]
)
def test_saved_samples_have_the_greys_of_the_images(images, samples, size, tmp_path):
    figure, truth, known, y_hat, drawn = samples_figure(images, samples, size)
    names = [text.get_text() for text in figure.texts[1:]]
    assert names == ["Inputs", "Truth", "NN"] + [f"CVAE {n + 1}" for n in range(samples)]
    dots, scale = saved_dots(figure, tmp_path), round(112 / max(size))
    for text, row in zip(figure.texts[1:], [truth, truth, y_hat, *drawn], strict=True):
        middle = (1 - text.get_position()[1]) * figure.bbox.height
        top = round(middle - size[0] * scale / 2)
        for column, image in enumerate(row):
            left = MARGIN + figures.ROW_LABELS + column * (size[1] * scale + GAP)
            pixels = dots[top:, left:][: size[0] * scale : scale, : size[1] * scale : scale]
            blue, orange = is_colour(pixels, MISSING), is_colour(pixels, OUTLINE)
            assert (blue == (~known.numpy() & (text.get_text() == "Inputs"))).all()
            assert orange[known].any() and not orange[~known].any()
            grey = truth[column].where(known, image).mul(255).round().numpy()[..., None]
            assert (pixels == grey)[~blue & ~orange].all()


def test_diversity_shows_mean_and_spread_of_all_samples_and_some_of_them(tmp_path):
    truth, known = greys(2, 28, 28), bottom_left(28, 28)
    samples = torch.zeros(40, 2, 28, 28)
    samples[:20, :, :14] = samples[:20, :, :, :14] = 1  # 0 and 1 are equally frequent there
    figure = diversity_figure(truth, samples, num_shown=10)
    dots = saved_dots(figure, tmp_path)
    first = np.flatnonzero(is_colour(dots, MISSING).any(1))[0]
    values = {}
    for column, name in enumerate(["input", "truth", "nn", "mean", "std"]):
        left = MARGIN + column * (28 * 6 + GAP)
        values[name] = dots[first : first + 28 * 6 : 6, left : left + 28 * 6 : 6]
    assert is_colour(values["input"], MISSING)[~known].all()
    assert (values["truth"] == (truth[0] * 255).round().numpy()[..., None])[~known].all()
    assert (values["nn"][~known] == 51).all()
    assert (values["mean"][:14] == 128).all() and (values["mean"][14:, 14:] == 0).all()
    assert (values["mean"] == values["truth"])[known].all()
    assert (values["std"][:14] == 255).all() and (values["std"][14:] == 0).all()
    wider = diversity_figure(truth, samples, num_shown=12).bbox.width
    assert wider - figure.bbox.width == pytest.approx(84 + GAP)  # one more in both rows


@pytest.mark.parametrize("images", [1, 2])
def test_problem_shows_each_pixel_once_in_what_is_given_or_to_be_predicted(images, tmp_path):
    known = {"1 quadrant": bottom_left(28, 28), "3 quadrants": ~bottom_left(28, 28)}
    figure = figures.plot_problem(torch.zeros(images, 28, 28), known)
    dots = saved_dots(figure, tmp_path)
    assert is_colour(dots, MISSING).sum() == images * len(known) * 28 * 28 * 4 * 4
    names = [text.get_text() for text in figure.texts]
    assert set(known) < set(names) and names.count("given") == names.count("to predict") == 2


@pytest.mark.parametrize(
    "title", ["short", "several words that fill lines " * 9, r"a$\frac{$ $b " * 9]
)
def test_texts_stay_on_the_figure_and_apart(title):
    truth = greys(1, 28, 28)
    for figure in (
        samples_figure(1, title=title)[0],
        diversity_figure(truth, greys(20, 1, 28, 28), title),
        figures.plot_problem(truth, {"1 quadrant": bottom_left(28, 28)}),
        figures.plot_training(training_table(HISTORIES, BEST), title),
    ):
        figure.draw_without_rendering()
        texts = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label)]
        boxes = [text.get_window_extent() for text in [*figure.texts, *texts]]
        for number, box in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            assert not any(box.overlaps(other) for other in boxes[:number])


def test_table_has_every_epoch_and_marks_the_best_one():
    text = training_table(HISTORIES, BEST).to_csv(index=False)
    table = pd.read_csv(io.StringIO(text))
    nets = ["baseline"] * 3 + ["CVAE"] * 4
    assert table["net"].tolist() == nets and table["epoch"].tolist() == [1, 2, 3, 1, 2, 3, 4]
    assert table["best"].tolist() == [False, True, False, False, False, True, False]
    names = ["training loss", "validation loss", "validation reconstruction", "validation KL"]
    columns = [f"{name} (nats per image)" for name in names]
    assert table.columns.tolist() == ["net", "epoch", *columns, "best"]  # and no times
    assert table[columns].isna().sum().tolist() == [0, 0, 3, 3]
    assert table[columns].iloc[-1].tolist() == [5.0, 5.5, 4.0, 1.5]


@pytest.mark.parametrize("references", [None, {"baseline": 6.5, "CVAE": 4.2}])
def test_training_shows_losses_best_epochs_and_references(references):
    axes = figures.plot_training(training_table(HISTORIES, BEST), "title", references).axes
    shown = [
        {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in each.lines}
        for each in axes
    ]
    assert shown[0]["best: epoch 2"] == [[2, 6.0]] and shown[1]["best: epoch 3"] == [[3, 4.5]]
    assert shown[1]["validation loss"] == [[1, 7.0], [2, 5.0], [3, 4.5], [4, 5.5]]
    assert [3, 4.0] in sum(shown[2].values(), []) and [[3, 0.5]] in shown[2].values()
    lines = [name for each in shown for name in each if str(name).startswith("tutorial")]
    assert lines == (["tutorial: 6.5", "tutorial: 4.2"] if references else [])
    dashes = {line.get_linestyle() for each in axes for line in each.lines}
    assert len(dashes - {"None"}) >= 4  # curves differ without colours


def test_epochs_of_another_bound_are_marked():
    """They have no two terms, and so no best epoch among these."""
    epochs = [dict(each) for each in HISTORIES["CVAE"]]
    for each in epochs[2:]:
        del each["reconstruction"], each["kl"]
    table = training_table(HISTORIES | {"CVAE": epochs}, BEST)
    baseline, bound, terms = figures.plot_training(table, "title").axes
    assert not baseline.patches
    for axes in (bound, terms):
        (patch,) = axes.patches
        left, right = patch.get_extents().transformed(axes.transData.inverted()).intervalx
        assert (left, right) == pytest.approx((2.5, 4.5))
    assert "best: epoch 3" in {line.get_label() for line in bound.lines}
    assert not any("best" in str(line.get_label()) for line in terms.lines)


def test_a_jump_of_the_training_loss_flattens_no_curve():
    epochs = [dict(each) for each in HISTORIES["CVAE"]]
    usual, low = max(epochs[0]["train"], *(each["val"] for each in epochs)), 4.0
    epochs[2]["train"] = 1e11
    table = training_table(HISTORIES | {"CVAE": epochs}, BEST)
    _, axes, _ = figures.plot_training(table, "title", {"baseline": 6.5, "CVAE": low}).axes
    bottom, top = axes.get_ylim()
    assert low - 1 < bottom < low and usual < top < usual + 1
    curve = np.asarray(axes.lines[0].get_xydata()).tolist()
    assert [3, 1e11] in curve  # it goes on above the panel


def test_a_single_epoch_can_be_seen():
    one = {net: epochs[:1] for net, epochs in HISTORIES.items()}
    for axes in figures.plot_training(
        training_table(one, {"baseline": 1, "CVAE": 1}), "title"
    ).axes:
        assert all(line.get_marker() != "None" for line in axes.lines)


def test_same_figure_gives_the_same_bytes_without_a_version(tmp_path):
    for name in ("one", "other"):
        torch.manual_seed(0)
        save_figure(samples_figure()[0], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with Image.open(tmp_path / "one") as picture:
        assert picture.format == "PNG" and set(picture.info) == {"dpi"}


SETTINGS = {"image.origin": "lower"}, {"savefig.bbox": "tight"}, {"text.usetex": True}


@pytest.mark.parametrize("settings", [*SETTINGS, library["dark_background"]])
def test_settings_of_the_user_neither_change_figures_nor_are_changed(tmp_path, settings):
    """Nor does a character that the font lacks cost a warning."""

    def draw_all(folder):
        torch.manual_seed(0)
        folder.mkdir()
        figure, truth, known, *_ = samples_figure(title="\u624b $")
        save_figure(figure, folder / "samples")
        save_figure(figures.plot_problem(truth, {"1 quadrant": known}), folder / "problem")
        table = training_table(HISTORIES, BEST)
        save_figure(figures.plot_training(table, "title"), folder / "training")
        history = History([{"val": 1.0, "objective": 1, "seconds": 1.0}])
        snapshots = [torch.zeros(1, 3, 28, 28, dtype=torch.uint8)]
        (folder / "gif").write_bytes(make_gif(history, snapshots, truth, known, "title"))
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    plain = draw_all(tmp_path / "plain")
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("error")
        before = dict(matplotlib.rcParams)
        assert draw_all(tmp_path / "styled") == plain
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("raised, cause", [(FileNotFoundError, None), (RuntimeError, OSError())])
def test_a_failure_to_draw_is_not_called_one_to_write(tmp_path, monkeypatch, raised, cause):
    """As with ``text.usetex`` where there is no LaTeX."""

    def savefig(*_, **__):
        raise raised("no latex") from cause

    figure, *_ = samples_figure()
    monkeypatch.setattr(figure, "savefig", savefig)
    with pytest.raises(raised, match="^no latex$"):
        save_figure(figure, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
