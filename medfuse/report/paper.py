"""A sheet of a picture: images, texts, lines and numbered bars, placed in px from the top left corner.

Drawn with Pillow: a picture of thirty panels costs little more than its PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Literal

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from medfuse.about import NOTICE
from medfuse.io.atomic import atomic_file

PAPER, INK, SOFT, MARK = "#0e1116", "#edf0f4", "#98a2b0", "#58c4dd"
TITLE, LABEL, SMALL = 20.0, 17.0, 15.0  # px, height of letters; a page shows them at about two thirds
_DPI = 100
_NEAR_END = 0.03  # share of a bar within which a number is at its end
_TICK, _PAD = 4.0, 3.0  # px, length of a mark and its distance from the number
_FLAT, _FAR = 1e-30, 1e6  # width of a window that has none; how many windows away a value counts, were it infinite
_PLAIN = 1e-4, 1e6  # numbers between them are written without an exponent
_PNG_LEVEL = 4  # of 9: 6, the default, takes twice as long for a file 5 % smaller

Box = tuple[float, float, float, float]  # left, top, right, bottom
Colours = np.ndarray  # a palette [n, 3] in 0..1
Resampling = Image.Resampling


@dataclass(frozen=True)
class Written:
    """A text on a sheet, and the box that it covers."""

    text: str
    box: Box


@dataclass
class Panel:
    """A place for an image on a sheet.

    Attributes:
        left: Px, and so are the others.
        top: From the top of the sheet.
        width: To the right.
        height: Downwards.
        image: What is shown **[H, W]** or **[H, W, 3]**, its first row at the top.
        texts: What is written on it, and its centre as fractions of the panel, from its top left corner.
    """

    left: float
    top: float
    width: float
    height: float
    image: np.ndarray | None = None
    texts: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def pixels(self) -> tuple[int, int, int, int]:
        """Return left, top, width and height as whole px."""
        left, top = round(self.left), round(self.top)
        return left, top, max(round(self.left + self.width) - left, 1), max(round(self.top + self.height) - top, 1)


class Paper:
    """An empty sheet.

    Attributes:
        width: Px.
        height: Px.
        picture: What is drawn so far.
        panels: All panels, in the order in which they were placed.
        texts: All texts but those on panels.
        bars: How many bars with numbers there are.
    """

    def __init__(self, width: float, height: float) -> None:
        """Make a sheet of a size in px."""
        self.width, self.height = round(width), round(height)
        self.picture = Image.new("RGB", (self.width, self.height), PAPER)
        self._draw = ImageDraw.Draw(self.picture)
        self.panels: list[Panel] = []
        self.texts: list[Written] = []
        self.bars = 0

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = LABEL,
        color: str = INK,
        align: Literal["left", "centre", "right"] = "left",
        bold: bool = False,
        upwards: bool = False,
        outline: bool = False,
    ) -> None:
        """Write a text whose middle is at a height, in one line; an outline keeps it legible on images."""
        font, edge = _font(round(size, 2), bold), 2 if outline else 0
        text = text.replace("\n", " ")
        anchor = {"left": "lm", "centre": "mm", "right": "rm"}[align]
        if upwards:
            left, top, right, bottom = font.getbbox(text, anchor="lt")
            mask = Image.new("L", (max(int(right - left), 1), max(int(bottom - top), 1)))
            ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font, anchor="lt")
            mask = mask.transpose(Image.Transpose.ROTATE_90)
            corner = round(x - mask.width / 2), round(y - mask.height / 2)
            self.picture.paste(color, corner, mask)
            box: Box = (*corner, corner[0] + mask.width, corner[1] + mask.height)
        else:
            self._draw.text((x, y), text, color, font, anchor=anchor, stroke_width=edge, stroke_fill="black")
            box = self._draw.textbbox((x, y), text, font, anchor=anchor, stroke_width=edge)
        self.texts.append(Written(text, box))

    def panel(self, left: float, top: float, width: float, height: float) -> Panel:
        """Place an empty panel."""
        panel = Panel(left, top, width, height)
        self.panels.append(panel)
        x, y, wide, high = panel.pixels
        self.box(x, y, wide, high, "black")
        return panel

    def box(self, left: float, top: float, width: float, height: float, color: str) -> None:
        """Fill a box, at least a px wide and high."""
        x, y = round(left), round(top)
        end = max(round(left + width), x + 1) - 1, max(round(top + height), y + 1) - 1
        self._draw.rectangle((x, y, *end), fill=color)

    def show(
        self,
        panel: Panel,
        image: np.ndarray,
        colours: Colours,
        ends: tuple[float, float],
        resampling: Resampling = Resampling.BILINEAR,
    ) -> None:
        """Show values **[H, W]** in a palette over a window, or colours **[H, W, 3]**, uint8 or 0..1, on a panel.

        What is not a number is shown as the empty sheet.
        """
        panel.image = image
        x, y, *size = panel.pixels
        if image.ndim == 3:
            shown = _bytes(image) if image.dtype != np.uint8 else image
            scaled = Image.fromarray(np.ascontiguousarray(shown)).resize(size, resampling)
        else:
            within = np.clip((np.float64(image) - ends[0]) / max(ends[1] - ends[0], _FLAT), -_FAR, _FAR)
            void = np.isnan(within)
            values = np.asarray(Image.fromarray(np.float32(np.where(void, 0.0, within))).resize(size, resampling))
            scaled = Image.fromarray(_looked_up(values, colours))
            if void.any():
                scaled.paste(PAPER, (0, 0), Image.fromarray(np.uint8(255 * void)).resize(size, Resampling.NEAREST))
        self.picture.paste(scaled, (x, y))

    def cover(self, panel: Panel, mask: np.ndarray, color: str) -> None:
        """Lay a colour over a panel, as far as a mask **[H, W]** in 0..255, some times as fine as px, says."""
        x, y, *size = panel.pixels
        self.picture.paste(color, (x, y), Image.fromarray(mask).resize(size, Resampling.BOX))

    def write(self, panel: Panel, text: str, place: tuple[float, float], inwards: tuple[float, float]) -> None:
        """Write a letter on a panel: beside a place given as fractions, so many px inwards."""
        panel.texts[text] = place
        x, y = panel.left + place[0] * panel.width + inwards[0], panel.top + place[1] * panel.height + inwards[1]
        self.text(x, y, text, color=MARK, align="centre", bold=True, outline=True)
        self.texts.pop()

    def bar(
        self, left: float, top: float, width: float, scale: np.ndarray, ends: tuple[float, float], *, ticks: int = 8
    ) -> None:
        """Draw a horizontal scale of colours **[levels, steps, 3]** with at most so many numbers below.

        Several levels lie above each other, in a higher bar.
        """
        height = 10.0 if len(scale) == 1 else 24.0
        place = Panel(left, top + 10 - height, width, height)
        x, y, *size = place.pixels
        self.picture.paste(Image.fromarray(_bytes(scale)).resize(size, Resampling.NEAREST), (x, y))
        self.ticks(left, top + 10, width, ends, ticks)

    def ticks(self, left: float, top: float, width: float, ends: tuple[float, float], ticks: int) -> None:
        """Write numbers below a bar, those at its ends inwards: another bar is near."""
        low, high = ends
        self.bars += 1
        places = [v for v in MaxNLocator(ticks, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= v <= high]
        for value, text in zip(places, numbers(places), strict=True):
            share = (value - low) / max(high - low, 1e-12)
            x = left + share * width
            self.box(x - 0.5, top, 1, _TICK, SOFT)
            align: Literal["left", "centre", "right"] = "centre"
            align = "left" if share < _NEAR_END else "right" if share > 1 - _NEAR_END else align
            self.text(x, top + _TICK + _PAD + SMALL / 2, text, size=SMALL, color=SOFT, align=align)

    def save_png(self, path: str | Path | BinaryIO) -> None:
        """Write a PNG, atomically, or into an open file; equal sheets give equal bytes."""
        if isinstance(path, str | Path):
            with atomic_file(path) as file:
                self.save_png(file)
            return
        said = PngInfo()
        said.add_text("Software", "medfuse")
        said.add_text("Comment", NOTICE)
        self.picture.save(path, "PNG", pnginfo=said, dpi=(_DPI, _DPI), compress_level=_PNG_LEVEL)

    def save_jpeg(self, path: str | Path) -> None:
        """Write a JPEG, atomically; equal sheets give equal bytes."""
        with atomic_file(path) as file:
            self.picture.save(file, "JPEG", quality=85, dpi=(_DPI, _DPI), comment=NOTICE.encode())


def numbers(values: Sequence[float]) -> list[str]:
    """Return evenly spaced values as texts: of equally many decimals, or with exponents; a minus sign is no hyphen."""
    step = min((abs(b - a) for a, b in pairwise(values)), default=1.0)
    largest = max((abs(v) for v in values), default=0.0)
    if step < _PLAIN[0] or largest >= _PLAIN[1]:
        for digits in range(1, 16):
            texts = [f"{v:.{digits}g}" for v in values]
            if all(abs(float(text) - v) < step / 100 for text, v in zip(texts, values, strict=True)):
                break
    else:
        decimals = max(0, -int(np.floor(np.log10(step) + 1e-9)))
        texts = [f"{v + 0.0:.{decimals}f}" for v in values]
    return [text.replace("-", "\N{MINUS SIGN}") for text in texts]


def _looked_up(values: np.ndarray, colours: Colours) -> np.ndarray:
    """Return bytes **[H, W, 3]** of values in 0..1, what lies outside at the ends."""
    count = len(colours)
    rows: np.ndarray = _bytes(colours)[np.clip(values * count, 0, count - 1).astype(np.intp)]
    return rows


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((255 * np.clip(colours, 0, 1) + 0.5).astype(np.uint8))


@lru_cache(maxsize=64)
def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
