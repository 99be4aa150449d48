"""Draws what a small car's screen needs in one strip above the road: the place in the lane in words, and the rate."""

from __future__ import annotations

from dataclasses import dataclass

from camapp.core.predictions import Prediction
from camapp.core.status import Hud, Rating, rating_of
from camapp.overlay.birds_eye import has_lane
from camapp.overlay.prediction_card import MAX_LINES
from camapp.overlay.style import AMBER, RATING_COLOURS, WHITE, Style
from camapp.overlay.text import Font, Layer

# Images of at most this size, the usual ones of cars, have a strip in place of the panels.
LARGEST = (640, 480)
# The strip is black at this opacity, 0 to 255.
_OPACITY = 190


@dataclass(frozen=True, slots=True)
class Strip:
    """The content of a strip: its left and right text, the rate's rating, and whether it is old or tells of no lane."""

    left: str
    right: str
    rating: Rating
    warns: bool

    @classmethod
    def of(cls, prediction: Prediction, hud: Hud | None, age: str) -> Strip:
        """Return the content for a prediction of the task `track`; `age` is a text, "" if it is new."""
        found = has_lane(prediction.values)
        rate, rating = "", Rating.UNRATED
        if hud is not None:
            # A rate that falls on purpose is no alarm.
            target = 0 if hud.paused or hud.ended or hud.idle else hud.target_fps
            rate, rating = f"{hud.infer_fps:.0f} fps", rating_of(hud.infer_fps, target)
        left = age or (in_words(prediction.values) if found else prediction.label)
        return cls(left, rate, rating, bool(age) or not found)


def uses_strip(style: Style, prediction: Prediction | None) -> bool:
    """Return whether an image has a strip in place of the panels."""
    return (
        prediction is not None
        and prediction.task == "track"
        and style.width <= LARGEST[0]
        and style.height <= LARGEST[1]
    )


def in_words(values: dict[str, float]) -> str:
    """Return the place in the lane, such as '12 cm right, 3 deg left'."""
    offset, heading = round(100 * values["offset_m"]), round(values["heading_deg"])
    parts = [(offset, "cm", "in the middle"), (heading, "deg", "straight")]
    return ", ".join(f"{abs(n)} {unit} {'right' if n > 0 else 'left'}" if n else zero for n, unit, zero in parts)


def strip_layer(style: Style, strip: Strip) -> Layer:
    """Return the strip, as wide as the image and about a twelfth of its height; more lines only for a long reason."""
    font = Font(max(6, style.height // 34), bold=style.width >= LARGEST[0] // 2)
    pad = max(2, font.cap // 3)
    right = font.layer(strip.right, RATING_COLOURS[strip.rating])
    room = style.width - 4 * pad - (right.width if strip.right else 0)
    lines = font.wrap(strip.left, room, MAX_LINES) or [""]
    layer = Layer.clear(style.width, len(lines) * font.line + 2 * pad)
    layer.keep[:] = 255 - _OPACITY
    for number, line in enumerate(lines):
        font.layer(line, AMBER if strip.warns else WHITE).merge_into(layer, pad, pad + number * font.line)
    if strip.right:
        right.merge_into(layer, style.width - pad - right.width, pad)
    return layer
