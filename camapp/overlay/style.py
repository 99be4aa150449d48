"""Defines colours, sizes that follow from the frame size, and the format of percentages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from camapp.core.status import Rating
from camapp.overlay.text import Colour, Font

# BGR throughout.
WHITE: Colour = (245, 245, 245)
SOFT: Colour = (200, 195, 191)
FAINT: Colour = (158, 152, 148)
DIM: Colour = (116, 110, 106)
TRACK: Colour = (78, 72, 68)
DARK: Colour = (26, 22, 20)
ACCENT: Colour = (230, 196, 78)
GREEN: Colour = (120, 214, 116)
AMBER: Colour = (70, 184, 250)
RED: Colour = (92, 92, 242)
RATING_COLOURS = {Rating.GOOD: GREEN, Rating.FAIR: AMBER, Rating.POOR: RED, Rating.UNRATED: WHITE}
STAGE_COLOURS: dict[str, Colour] = {
    "capture": (214, 158, 106),
    "prepare": (196, 206, 110),
    "queue": (150, 146, 142),
    "infer": (110, 196, 244),
    "decode": (206, 142, 196),
}


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes in pixels that follow from the frame size.

    Attributes:
        width: of the frame.
        height: of the frame.
        unit: height of a capital of body text.
        margin: between the frame's edge and the panels.
        detail: 0 for label and rates only, 1 for the main numbers, 2 for everything.
    """

    width: int
    height: int
    unit: int
    margin: int
    detail: int

    @property
    def small(self) -> Font:
        """Font of captions."""
        return Font(max(6, round(self.unit * 0.82)))

    @property
    def body(self) -> Font:
        """Font of ordinary text."""
        return Font(self.unit)

    @property
    def figure(self) -> Font:
        """Font of the three rates."""
        return Font(round(self.unit * 1.7), bold=True)

    @property
    def title(self) -> Font:
        """Font of the label."""
        return Font(round(self.unit * (1.6, 2.2, 3.0)[self.detail]), bold=True)

    @property
    def line(self) -> int:
        """Thickness of boxes and marks."""
        return max(2 if self.detail else 1, round(self.unit * 0.2))

    @property
    def pad(self) -> int:
        """Distance between a panel's edge and its content."""
        return max(4, round(self.unit * (0.7, 0.9, 1.1)[self.detail]))


@lru_cache(maxsize=8)
def style_of(width: int, height: int) -> Style:
    """Return the style for a frame size."""
    base = min(width * 4 / 3, height * 16 / 9)
    unit = max(6 if width < 300 else 7, round(base * 0.0083))
    detail = 0 if width < 300 or height < 200 else 1 if width < 560 or height < 400 else 2
    return Style(width, height, unit, max(3, round(base * 0.0125)), detail)


def share(score: float) -> int:
    """Return whole per cent, 0 to 100; `nan` is 0."""
    return round(min(max(score, 0.0), 1.0) * 100) if score == score else 0


def percent(score: float) -> str:
    """Return a text such as '63 %'."""
    return f"{share(score)} %"
