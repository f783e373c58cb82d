"""Images laid out on a white sheet, from which a figure is made.

A dot is a pixel of the figure; a pixel is one of an image, and drawn as a square of dots.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import FigureImage
from matplotlib.textpath import text_to_path
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

__all__ = ["DPI", "GAP", "Sheet", "drawable", "titled_figure"]

DPI = 200
MISSING = (115, 158, 204)  # a blue that no grey pixel can be taken for
OUTLINE = (230, 159, 0)  # orange: Okabe and Ito's, seen apart from the blue by the colour-blind
OUTLINE_WIDTH = 2  # dots
CELL = 112  # dots along the longer side of an image
GAP = 8  # dots between images
BORDER = 16  # dots
TITLE_FONT = FontProperties(size=8)  # points
LINE_HEIGHT = 30  # dots, of the title


class Sheet:
    """Rows of images, and text; positions are in dots from the upper left corner of the sheet.

    Args:
        shape: height and width of an image, in pixels.
        cell: about how many dots the longer side of an image should have.
        gap: dots between two images.

    Attributes:
        down, across: dots from one image to the next.
    """

    def __init__(self, shape: Sequence[int], cell: int = CELL, gap: int = GAP) -> None:
        self.scale = max(1, round(cell / max(shape)))
        self.down, self.across = (side * self.scale + gap for side in shape)
        self.images: list[tuple[int, int, np.ndarray]] = []
        self.texts: list[tuple[float, float, str, str]] = []

    def put(self, images: Tensor, top: int, left: int, outline: Tensor | None = None, zoom: int = 1) -> None:
        """Put a row of images on the sheet.

        Args:
            images: shape (images, h, w), in [0, 1]; NaN is drawn blue, as missing.
            top, left: corner of the first image.
            outline: boolean (h, w): pixels to draw a line around, just inside.
            zoom: how many times larger than usual to draw the images.
        """
        scale = zoom * self.scale
        dots = (images * 255).nan_to_num().round().byte().cpu().numpy()[..., None].repeat(3, axis=-1)
        dots[images.isnan().cpu().numpy()] = MISSING
        dots = dots.repeat(scale, axis=1).repeat(scale, axis=2)
        if outline is not None:
            area = outline.cpu().numpy().repeat(scale, axis=0).repeat(scale, axis=1)
            # inside is what stays in the area however the image is shifted by up to the width of the line
            inside = sliding_window_view(np.pad(area, OUTLINE_WIDTH), area.shape).all((0, 1))
            dots[:, area & ~inside] = OUTLINE
        self.images += [(top, left + column * self.across, image) for column, image in enumerate(dots)]

    def write(self, text: str, y: float, x: float, align: str = "center") -> None:
        """Write text, vertically centred; ``align`` is the side of it where x is: left, center or right."""
        self.texts.append((y, x, text, align))

    @property
    def dots(self) -> np.ndarray:
        """All images on white, uint8 of shape (height, width, 3)."""
        height = max(top + len(image) for top, _, image in self.images)
        width = max(left + image.shape[1] for _, left, image in self.images)
        dots = np.full((height, width, 3), 255, dtype=np.uint8)
        for top, left, image in self.images:
            dots[top : top + len(image), left : left + image.shape[1]] = image
        return dots

    def draw(self, figure: Figure, left: int, bottom: int, text_size: float = 7) -> FigureImage:
        """Draw the sheet with its lower left corner at a dot of a figure, and return its images as one."""
        dots, (across, up) = self.dots, figure.bbox.size
        for y, x, text, align in self.texts:
            place = (left + x) / across, (bottom + len(dots) - y) / up
            figure.text(*place, text, ha=align, va="center", fontsize=text_size)
        return figure.figimage(dots, left, bottom)

    def figure(self, title: str) -> Figure:
        """Make a figure of the sheet with a title above it."""
        height, width, _ = self.dots.shape
        figure = titled_figure(title, height + 3 * BORDER, max(width, 5 * CELL) + 2 * BORDER, BORDER, BORDER)
        self.draw(figure, BORDER, BORDER)
        return figure


def titled_figure(title: str, height: int, width: int, top: int, left: int) -> Figure:
    """Return a figure that has nothing but a title, broken into lines where it is too long.

    Args:
        title: its own line breaks stay.
        height, width: of the figure in dots; the height is without the lines of the title.
        top, left: dots above the title, and on both sides of it.
    """
    lines = []
    for paragraph in drawable(title).split("\n"):
        lines.append("")
        for word in paragraph.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            points, _, _ = text_to_path.get_text_width_height_descent(longer, TITLE_FONT, ismath=False)
            if points * DPI / 72 > width - 2 * left:
                lines.append(word)
            else:
                lines[-1] = longer
    height += LINE_HEIGHT * len(lines)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    place, text = (left / width, 1 - top / height), "\n".join(lines)
    figure.text(*place, text, va="top", font=TITLE_FONT, linespacing=1.3, parse_math=False)
    return figure


def drawable(text: str) -> str:
    """Replace each character that the font lacks; line breaks stay."""
    glyphs = get_font(findfont(TITLE_FONT)).get_charmap()
    return "".join(c if c == "\n" or ord(c) in glyphs else "\N{REPLACEMENT CHARACTER}" for c in text)
