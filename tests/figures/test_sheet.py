from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cvae.figures.sheet import BORDER, DPI, MISSING, OUTLINE, OUTLINE_WIDTH, Sheet


def drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255, canvas.get_renderer()


def dots_of(figure):
    """The sheet that a figure was made of, in [0, 1]."""
    return np.asarray(figure.images[0].get_array()) / 255


def words_of(figure):
    """The text on that sheet: words, x and y in dots."""
    across, up = figure.bbox.size
    rows = len(dots_of(figure))
    for text in figure.texts[1:]:  # all but the title
        x, y = text.get_position()
        yield text.get_text(), round(x * across - BORDER), round(BORDER + rows - y * up)


def assert_nothing_is_cut_off(figure):
    _, renderer = drawn(figure)
    page = figure.bbox
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    assert boxes
    for box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    for number, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize("height, width", [(28, 28), (28, 20), (6, 4), (120, 64)])
@pytest.mark.parametrize("title", ["short", "several words that fill more than one line " * 4])
def test_sheet_is_drawn_dot_by_dot(height, width, title):
    """Each dot of the sheet is a dot of the picture, so images of all rows and columns have one size."""
    known = torch.zeros(height, width, dtype=torch.bool)
    known[height // 2 :, : width // 2] = True
    sheet = Sheet((height, width), gap=5)
    scale, down, across = sheet.scale, sheet.down, sheet.across
    margin = 150  # for the word
    image = torch.rand(height, width)
    for row in range(2):
        sheet.put(image.expand(3, -1, -1), row * down, margin, outline=known)
    sheet.write("a word", 20, margin - 10, "right")
    figure = sheet.figure(title)
    picture, _ = drawn(figure)
    assert figure.dpi == DPI
    rows, columns = sheet.dots.shape[:2]
    top, left = picture.shape[0] - BORDER - rows, BORDER
    shown = picture[top : top + rows, left : left + columns]
    corner = (slice(height * scale), slice(margin, margin + width * scale))
    for row in range(2):
        for column in range(3):
            moved = np.roll(sheet.dots, (-row * down, -column * across), (0, 1))
            np.testing.assert_array_equal(moved[corner], sheet.dots[corner])
    shown, expected = shown[:, margin:], sheet.dots[:, margin:]
    np.testing.assert_array_equal((shown * 255).round(), expected)
    assert_nothing_is_cut_off(figure)


def test_outline_goes_round_the_known_pixels_and_hides_nothing_else():
    known = torch.zeros(8, 8, dtype=torch.bool)
    known[:4] = True
    known[4:, :4] = True  # all but one quadrant
    sheet = Sheet((8, 8), cell=40)
    sheet.put(torch.zeros(1, 8, 8).masked_fill(~known, torch.nan), 0, 0, outline=known)
    orange: Any = np.isclose(sheet.dots, OUTLINE).all(-1)
    big: Any = known.numpy().repeat(5, 0).repeat(5, 1)
    assert (np.isclose(sheet.dots, MISSING).all(-1) == ~big).all()
    assert not orange[~big].any()
    depth = 1 + OUTLINE_WIDTH
    for row in range(40):
        for column in range(40):
            around = [
                0 <= row + down < 40
                and 0 <= column + right < 40
                and big[row + down, column + right]
                for down in range(1 - depth, depth)
                for right in range(1 - depth, depth)
            ]
            assert orange[row, column] == (big[row, column] and not all(around))


def test_colours_differ_in_greyscale_from_what_they_border_on():
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (MISSING, OUTLINE)]
    assert all(0.2 < value / 255 < 0.8 for value in luminance)  # neither ink nor paper
