"""Images on a white sheet, to the pixel, from which a figure is made."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

__all__ = ["DPI", "TITLE", "Sheet", "cell_scale", "wrapped"]

DPI = 200
MISSING = (115, 158, 204)  # a blue that no grey pixel can be taken for
OUTLINE = (230, 159, 0)  # orange: Okabe and Ito's, seen apart from the blue by the colour-blind
LINE = 2  # dots, of the outline
CELL = 112  # dots along the longer side of an image
TEXT = 7  # points
TITLE = 8
LINE_HEIGHT = 30  # dots, of the title


def cell_scale(height: int, width: int, cell: int = CELL) -> int:
    """Return how many dots make a pixel of an image, so that its longer side comes to about ``cell``."""
    return max(1, round(cell / max(height, width)))


class Sheet:
    """A sheet to put images and words on; places are in dots from its upper left corner.

    Args:
        height: of the sheet.
        width: of the sheet.
        known: boolean (h, w): the pixels that the images have in common with the inputs.
    """

    def __init__(self, height: int, width: int, known: np.ndarray) -> None:
        self.dots = np.full((height, width, 3), 255, dtype=np.uint8)
        self.known = known
        self.words: list[tuple[float, float, str, str]] = []

    def put(
        self, image: np.ndarray, top: int, left: int, scale: int, *, outlined: bool = True, hide: str = ""
    ) -> None:
        """Put an image on the sheet.

        Args:
            image: shape (h, w), in [0, 1].
            top: of its place.
            left: of its place.
            scale: dots a pixel.
            outlined: draw a line around the known pixels.
            hide: ``"missing"`` or ``"known"`` pixels, which are blue then.
        """
        known = _enlarged(self.known, scale)
        grey = (image * 255).round().astype(np.uint8)
        dots = np.repeat(_enlarged(grey, scale)[..., None], 3, axis=-1)
        if hide:
            dots[known if hide == "known" else ~known] = MISSING
        if outlined:
            dots[known & ~_shrunk(known, LINE)] = OUTLINE
        height, width = known.shape
        self.dots[top : top + height, left : left + width] = dots

    def write(self, text: str, y: float, x: float, align: str = "center") -> None:
        """Write words, vertically centred; ``align`` is where x stands: left, center or right of them."""
        self.words.append((x, y, text, align))

    def figure(self, title: str, left_margin: int = 0) -> Figure:
        """Make a figure of the sheet with a title above it, and room for words on its left."""
        border = 16
        height, width = self.dots.shape[:2]
        full_width = max(left_margin + width, 5 * CELL) + 2 * border
        lines = [line for part in title.split("\n") for line in wrapped(part, full_width - 2 * border)]
        header = LINE_HEIGHT * len(lines) + border
        full_height = header + height + 2 * border
        figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI)
        left, top = border + left_margin, border + header
        axes = figure.add_axes(
            (
                left / full_width,
                1 - (top + height) / full_height,
                width / full_width,
                height / full_height,
            )
        )
        axes.imshow(self.dots, interpolation="none", extent=(0, width, height, 0), aspect="auto")
        axes.set_axis_off()
        for x, y, text, align in self.words:
            axes.text(x, y, text, ha=align, va="center", fontsize=TEXT)
        figure.text(
            border / full_width,
            1 - border / full_height,
            "\n".join(lines),
            va="top",
            fontsize=TITLE,
            linespacing=1.3,
        )
        return figure


def wrapped(text: str, width: int) -> list[str]:
    """Break a title into lines that are at most so many dots wide."""
    font, lines = FontProperties(size=TITLE), [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        points, _, _ = text_to_path.get_text_width_height_descent(longer, font, ismath=False)
        if points * DPI / 72 > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _shrunk(region: np.ndarray, by: int) -> np.ndarray:
    """Take so many dots off the rim of a region; outside the image there is none of it."""
    for _ in range(by):
        padded = np.pad(region, 1)
        neighbours = [
            padded[1 + down : padded.shape[0] - 1 + down, 1 + right : padded.shape[1] - 1 + right]
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
        ]
        region = np.logical_and.reduce(neighbours)
    return region
