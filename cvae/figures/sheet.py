"""Images laid out dot by dot on a white sheet, from which a figure is made."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["DPI", "GAP", "TITLE_SIZE", "Sheet", "grid_steps", "wrap"]

Pair = tuple[int, int]

DPI = 200
MISSING = (115, 158, 204)  # a blue that no grey pixel can be taken for
OUTLINE = (230, 159, 0)  # orange: Okabe and Ito's, seen apart from the blue by the colour-blind
OUTLINE_WIDTH = 2  # dots
CELL = 112  # dots along the longer side of an image
GAP = 8  # dots between images
BORDER = 16  # dots
TEXT_SIZE = 7  # points
TITLE_SIZE = 8
LINE_HEIGHT = 30  # dots, of the title


def grid_steps(height: int, width: int, cell: int = CELL, gap: int = GAP) -> tuple[int, int, int]:
    """Return how large to draw images of a height and width in pixels, and how far apart, in dots.

    Args:
        height: of an image, in pixels.
        width: of an image, in pixels.
        cell: about how many dots the longer side of an image should have.
        gap: dots between two images.

    Returns:
        Dots along a pixel, and the steps down and across from one image to the next.
    """
    scale = max(1, round(cell / max(height, width)))
    return scale, height * scale + gap, width * scale + gap


class Sheet:
    """A sheet to put images and text on; positions are in dots from its upper left corner.

    Args:
        height: of the sheet.
        width: of the sheet.
        known: boolean (h, w): the pixels of the images that are known.
    """

    def __init__(self, height: int, width: int, known: np.ndarray) -> None:
        self.dots = np.full((height, width, 3), 255, dtype=np.uint8)
        self.known = known
        self.texts: list[tuple[float, float, str, str]] = []

    def put(
        self, images: np.ndarray, corner: Pair, scale: int, steps: Pair, outlined: bool = True, hide: str = ""
    ) -> None:
        """Put a grid of images on the sheet.

        Args:
            images: shape (rows, columns, h, w), in [0, 1].
            corner: top and left of the first one.
            scale: dots along a pixel.
            steps: down and across, from one image to the next.
            outlined: draw a line around the known pixels.
            hide: ``"missing"`` or ``"known"`` pixels, which are blue then.
        """
        dots = (images * 255).round().astype(np.uint8)[..., None].repeat(3, axis=-1)
        if hide:
            dots[:, :, self.known if hide == "known" else ~self.known] = MISSING
        dots = dots.repeat(scale, axis=2).repeat(scale, axis=3)
        if outlined:
            known = self.known.repeat(scale, axis=0).repeat(scale, axis=1)
            # inside is what stays known however the image is shifted by up to the width of the line
            inside = sliding_window_view(np.pad(known, OUTLINE_WIDTH), known.shape).all((0, 1))
            dots[:, :, known & ~inside] = OUTLINE
        for row, column in np.ndindex(images.shape[:2]):
            top, left = corner[0] + row * steps[0], corner[1] + column * steps[1]
            self.dots[top : top + dots.shape[2], left : left + dots.shape[3]] = dots[row, column]

    def write(self, text: str, y: float, x: float, align: str = "center") -> None:
        """Write text, vertically centred; ``align`` is the side of it where x is: left, center or right."""
        self.texts.append((x, y, text, align))

    def figure(self, title: str) -> Figure:
        """Make a figure of the sheet with a title above it, in which a dot of the sheet is a dot."""
        height, width = self.dots.shape[:2]
        full_width = max(width, 5 * CELL) + 2 * BORDER
        lines = wrap(title, full_width - 2 * BORDER)
        full_height = LINE_HEIGHT * len(lines) + height + 3 * BORDER
        figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI)
        left, bottom = BORDER / full_width, BORDER / full_height
        axes = figure.add_axes((left, bottom, width / full_width, height / full_height))
        axes.imshow(self.dots, interpolation="none", extent=(0, width, height, 0), aspect="auto")
        axes.set_axis_off()
        for x, y, text, align in self.texts:
            axes.text(x, y, text, ha=align, va="center", fontsize=TEXT_SIZE)
        figure.text(left, 1 - bottom, "\n".join(lines), va="top", fontsize=TITLE_SIZE, linespacing=1.3)
        return figure


def wrap(text: str, width: int) -> list[str]:
    """Break a title into lines that are at most ``width`` dots wide; its own line breaks stay."""
    font, lines = FontProperties(size=TITLE_SIZE), []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            points, _, _ = text_to_path.get_text_width_height_descent(longer, font, ismath=False)
            if points * DPI / 72 > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines
