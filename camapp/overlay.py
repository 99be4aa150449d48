"""Draws a Prediction and the head-up display on a picture.

What changes slowly (the two panels) is drawn into small layers a few times a second and laid on each frame; what
moves with the picture (boxes, lines) is drawn each time. No step touches the whole frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp import birdseye
from camapp.hud import Hud, Rating, rate
from camapp.lettering import Colour, Font, Layer, Pixels, plain
from camapp.records import Box, Polyline, Prediction

__all__ = ["Hud", "Overlay", "no_signal", "see_through"]

# BGR throughout.
WHITE: Colour = (245, 245, 245)
SOFT: Colour = (200, 195, 191)
FAINT: Colour = (158, 152, 148)
DIM: Colour = (116, 110, 106)
TRACK: Colour = (78, 72, 68)
INK: Colour = (26, 22, 20)
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
PANEL_OPACITY = 190  # of 255: white letters stay readable over a white picture, and the picture stays visible

# Rows worked on at a time: what lies between two steps stays in the cache, and is not asked of the kernel anew.
BAND = 48

LANE_TINT = 0.25  # share of the colour between the two lines beside a car

HUD_INTERVAL_NS = 333_000_000  # figures that change faster cannot be read
CARD_INTERVAL_NS = 150_000_000


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes in pixels that follow from the frame's.

    Attributes:
        width: of the frame.
        height: of the frame.
        unit: height of a capital of body text.
        margin: between the frame's edge and what is drawn.
        detail: 0 label and rate only, 1 the main figures, 2 everything.
    """

    width: int
    height: int
    unit: int
    margin: int
    detail: int

    @classmethod
    def of(cls, width: int, height: int) -> Style:
        """The style for a frame size."""
        base = min(width * 4 / 3, height * 16 / 9)
        unit = max(6 if width < 300 else 7, round(base * 0.0083))
        detail = 0 if width < 300 or height < 200 else 1 if width < 560 or height < 400 else 2
        return cls(width, height, unit, max(3, round(base * 0.0125)), detail)

    @property
    def small(self) -> Font:
        """Captions."""
        return Font(max(6, round(self.unit * 0.82)))

    @property
    def body(self) -> Font:
        """Ordinary text."""
        return Font(self.unit)

    @property
    def figure(self) -> Font:
        """The three rates."""
        return Font(round(self.unit * 1.7), bold=True)

    @property
    def title(self) -> Font:
        """The label."""
        return Font(round(self.unit * (1.6, 2.2, 3.0)[self.detail]), bold=True)

    @property
    def line(self) -> int:
        """Thickness of boxes and marks."""
        return max(2 if self.detail else 1, round(self.unit * 0.2))

    @property
    def pad(self) -> int:
        """Inside panels, between their edge and their content."""
        return max(4, round(self.unit * (0.7, 0.9, 1.1)[self.detail]))


class Overlay:
    """Draws on frames of any size, remembering what it drew.

    Args:
        clock: monotonic nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._card = _Cached(CARD_INTERVAL_NS)
        self._panel = _Cached(HUD_INTERVAL_NS)

    def draw(self, canvas: Pixels, prediction: Prediction | None, hud: Hud | None, age_ms: float, stale: bool) -> None:
        """Draw on `canvas`, (h, w, 3) uint8 BGR, in place.

        Args:
            canvas: the picture; boxes and lines of the prediction are in its pixels.
            prediction: the newest, or None before the first.
            hud: figures to show, or None to hide them.
            age_ms: how old the prediction is.
            stale: it is older than it should be: draw it dimmed, with its age.
        """
        style = _style(canvas.shape[1], canvas.shape[0])
        now = self._clock()
        if prediction is not None:
            _draw_findings(canvas, style, prediction, stale)
        taken_x, taken_y = 0, 0
        if hud is not None:
            panel = self._panel.get(
                (style, _digest(hud)), (style, hud.paused, hud.source, hud.model), now, lambda: _hud_panel(style, hud)
            )
            panel.lay_on(canvas, style.margin, style.margin)
            taken_x, taken_y = style.margin + panel.width, style.margin + panel.height
            _draw_badges(canvas, style, hud)
        if prediction is not None:
            age = f"{age_ms / 1000:.1f} s ago" if stale else ""
            truth = hud.truth if hud else ""
            shown = _Shown.of(prediction, truth, age)
            urgent = (style, shown.label, stale)
            card = self._card.get((style, shown), urgent, now, lambda: _card(style, shown))
            top = style.height - style.margin - card.height
            beside = top < taken_y and taken_x + card.width + 2 * style.margin <= style.width
            card.lay_on(canvas, style.margin + (taken_x if beside else 0), top)


def see_through(on_black: Pixels, on_white: Pixels, out: Pixels | None = None) -> Pixels:
    """What was drawn, without its ground: from the same drawing on a black and on a white picture.

    Where both are alike the drawing is opaque; where they differ by 255 there is none.

    Args:
        on_black: (h, w, 3) uint8 BGR.
        on_white: likewise.
        out: where to put it, (h, w, 4) uint8; a new array if not given.

    Returns:
        (h, w, 4) uint8 RGBA, not premultiplied.
    """
    height, width = on_black.shape[:2]
    out = np.empty((height, width, 4), np.uint8) if out is None else out
    for top in range(0, height, BAND):
        black, white = on_black[top : top + BAND], on_white[top : top + BAND]
        alpha = cv2.bitwise_not(cv2.extractChannel(cv2.subtract(white, black), 1))
        blue, green, red = (cv2.divide(channel, alpha, scale=255) for channel in cv2.split(black))
        cv2.merge([red, green, blue, alpha], out[top : top + BAND])
    return out


def _draw_badges(canvas: Pixels, style: Style, hud: Hud) -> None:
    """What needs attention now, in the upper right corner."""
    badges = [("PAUSED", AMBER)] if hud.paused else [("IDLE", SOFT)] if hud.idle else []
    badges += [("LOW LIGHT" if hud.slowness.startswith("low light") else "SLOW CAMERA", AMBER)] if hud.slowness else []
    badges += [(alert.upper(), RED) for alert in hud.health.alerts]
    font = style.body if style.detail else style.small
    y = style.margin
    for text, colour in badges:
        badge = _tag(text, font, INK, colour)
        badge.lay_on(canvas, max(0, style.width - style.margin - badge.width), y)
        y += badge.height + style.margin // 2


class _Cached:
    """A layer drawn again when its content changed, at most once an interval unless what is urgent changed."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._key: Hashable = None
        self._urgent: Hashable = None
        self._due = 0
        self._layer: Layer | None = None

    def get(self, key: Hashable, urgent: Hashable, now: int, draw: Callable[[], Layer]) -> Layer:
        if self._layer is None or (key != self._key and (now >= self._due or urgent != self._urgent)):
            self._layer = draw()
            self._key, self._urgent, self._due = key, urgent, now + self._interval_ns
        return self._layer


@lru_cache(maxsize=8)
def _style(width: int, height: int) -> Style:
    return Style.of(width, height)


# What belongs to places in the picture


def _draw_findings(canvas: Pixels, style: Style, prediction: Prediction, stale: bool) -> None:
    colour = DIM if stale else ACCENT
    if prediction.region is not None:
        _draw_corners(canvas, style, prediction.region, stale)
    if not stale:
        _tint_lane(canvas, prediction.lines)
    for line in prediction.lines:
        _draw_line(canvas, style, line, colour)
    for box in prediction.boxes:
        _draw_box(canvas, style, box, colour)
    if style.detail and birdseye.shows(prediction.values):
        width, height = 14 * style.unit, 18 * style.unit
        place = (style.width - style.margin - width, style.height - style.margin - height, width, height)
        birdseye.draw_lane(canvas, prediction.values, place, colour, INK)


def _draw_corners(canvas: Pixels, style: Style, region: Box, stale: bool) -> None:
    """Four corner marks just inside the region, light on dark so that they show on any picture."""
    marks = _corners(*_within(region, style), round(style.unit * 1.4))
    cv2.polylines(canvas, marks, False, INK, style.line + 2)
    cv2.polylines(canvas, marks, False, DIM if stale else WHITE, style.line)


@lru_cache(maxsize=64)
def _corners(x0: int, y0: int, x1: int, y1: int, longest: int) -> tuple[NDArray[np.int32], ...]:
    arm = max(3, min(longest, (x1 - x0) // 4, (y1 - y0) // 4))
    corners = ((x0, y0, 1, 1), (x1, y0, -1, 1), (x0, y1, 1, -1), (x1, y1, -1, -1))
    return tuple(
        np.array([[x + dx * arm, y], [x, y], [x, y + dy * arm]], np.int32).reshape(-1, 1, 2) for x, y, dx, dy in corners
    )


def _draw_line(canvas: Pixels, style: Style, line: Polyline, colour: Colour) -> None:
    points = _pixels(line.points)
    if len(points) < 2:
        return
    cv2.polylines(canvas, [points], False, INK, style.line + 2, cv2.LINE_8, 4)
    cv2.polylines(canvas, [points], False, colour, style.line, cv2.LINE_AA, 4)
    if line.label and style.detail:
        tag = _tag(line.label, style.small, INK, colour)
        x, y = (int(v) // 16 for v in points[-1, 0])
        tag.lay_on(canvas, _clamp(x, 0, style.width - tag.width), _clamp(y - tag.height, 0, style.height - tag.height))


def _tint_lane(canvas: Pixels, lines: tuple[Polyline, ...]) -> None:
    """Colour the ground between the lines labelled left and right, as far as both reach."""
    sides = {line.label: np.array(line.points).reshape(-1, 2) for line in lines if line.label in ("left", "right")}
    if len(sides) < 2 or not all(len(side) > 1 and np.isfinite(side).all() for side in sides.values()):
        return
    far = max(side[:, 1].min() for side in sides.values())
    shared = [np.flatnonzero(sides[name][:, 1] >= far) for name in ("left", "right")]
    if not all(len(points) for points in shared):
        return  # they lie one above the other
    left, right = sides["left"][: shared[0][-1] + 2], sides["right"][: shared[1][-1] + 2]
    outline = np.clip(np.concatenate([left, right[::-1]]), 0, (canvas.shape[1] - 1, canvas.shape[0] - 1))
    (x0, y0), (x1, y1) = outline.min(axis=0).astype(int), outline.max(axis=0).astype(int) + 1
    part = canvas[y0:y1, x0:x1]
    if part.size == 0:
        return
    painted = part.copy()
    cv2.fillPoly(painted, [np.rint((outline - (x0, y0)) * 16).astype(np.int32)], ACCENT, cv2.LINE_AA, 4)
    cv2.addWeighted(part, 1 - LANE_TINT, painted, LANE_TINT, 0, dst=part)


def _draw_box(canvas: Pixels, style: Style, box: Box, colour: Colour) -> None:
    x0, y0, x1, y1 = _within(box, style)
    # Nested thin rectangles: OpenCV draws one thick one six times slower.
    for ring in range(-1, style.line + 1):
        edge = colour if 0 <= ring < style.line else INK
        cv2.rectangle(canvas, (x0 + ring, y0 + ring), (max(x0, x1 - ring), max(y0, y1 - ring)), edge)
    if not box.label:
        return
    font = style.body if style.detail else style.small
    tag = _tag(f"{font.fit(box.label, style.width // 2)} {_percent(box.score)}", font, INK, colour)
    y = y0 - tag.height if y0 >= tag.height else y0
    tag.lay_on(canvas, _clamp(x0 - style.line // 2, 0, style.width - tag.width), y)


def _within(box: Box, style: Style) -> tuple[int, int, int, int]:
    """A box's corner pixels, inclusive, pulled into the frame; `nan` goes to the edge."""
    right, bottom = style.width - 1, style.height - 1
    x0, y0 = _bounded(box.x0, 0, right), _bounded(box.y0, 0, bottom)
    return x0, y0, max(x0, _bounded(box.x1 - 1, 0, right)), max(y0, _bounded(box.y1 - 1, 0, bottom))


def _bounded(value: float, low: int, high: int) -> int:
    return round(min(max(value, low), high)) if value == value else low


def _pixels(points: tuple[tuple[float, float], ...]) -> NDArray[np.int32]:
    """Points in sixteenths of a pixel, (n, 1, 2), as OpenCV's `shift=4` reads them; those not finite are left out."""
    # Clipped well inside OpenCV's 16-bit-after-shift arithmetic, or a far point would wrap round into the picture.
    array = np.asarray(points, np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(axis=1)]
    return np.rint(np.clip(array, -30_000, 30_000) * 16).astype(np.int32).reshape(-1, 1, 2)


@lru_cache(maxsize=512)
def _tag(text: str, font: Font, colour: Colour, fill: Colour) -> Layer:
    """Text on a filled plate."""
    words = font.layer(text, colour)
    pad = max(2, font.cap // 3)
    tag = Layer.clear(words.width + 2 * pad, font.cap + 2 * pad + 1)
    tag.colour[:] = fill
    tag.keep[:] = 0
    words.lay_over(tag, pad, pad - 1)
    return tag


# The card: what the model says


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a card says, rounded as it is shown: equal means that nothing needs to be drawn again."""

    label: str
    score: int
    top: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, str], ...]
    truth: str
    age: str

    @classmethod
    def of(cls, prediction: Prediction, truth: str, age: str) -> _Shown:
        return cls(
            prediction.label,
            _share(prediction.score),
            tuple((label, _share(score)) for label, score in prediction.top[:3]),
            tuple((name, f"{value:.3g}") for name, value in list(prediction.values.items())[:6]),
            truth,
            age,
        )


def _card(style: Style, shown: _Shown) -> Layer:
    """Label, score bar, the three best, values."""
    fade = bool(shown.age)
    ink, soft = (SOFT, FAINT) if fade else (WHITE, SOFT)
    accent = DIM if fade else ACCENT
    title, body, small = style.title, style.body, style.small
    inner = min(style.width - 2 * style.margin, (16, 24, 30)[style.detail] * style.unit) - 2 * style.pad
    board = _Board(inner, style.pad)

    score = f"{shown.score} %" if shown.label else ""
    room = inner - (body.width(score) + style.unit if score else 0)
    if shown.label:
        board.caption(0, title.fit(shown.label, room), title, ink)
        board.text(inner, score, body, soft, right=True, drop=title.cap - body.cap)
        board.advance(title.cap + style.unit)
        board.bar(0, inner, max(3, style.unit // 2), shown.score / 100, accent)
    elif not shown.values:
        board.caption(0, "nothing sure", body, soft)
        board.advance(body.cap + style.unit // 2)

    note = shown.age
    if shown.truth:
        right = shown.truth == shown.label
        board.advance(style.unit)
        board.text(0, body.fit(f"truth {shown.truth}", inner), body, GREEN if right else AMBER)
        if note:
            board.text(inner, note, body, AMBER, right=True)
        board.advance(body.cap)
    elif note:
        board.advance(style.unit)
        board.text(0, note, body, AMBER)
        board.advance(body.cap)

    if style.detail:
        names = inner * 11 // 20
        figures = small.width("100 %") + style.unit // 2
        for label, score_percent in shown.top if style.detail > 1 or not shown.label else ():
            board.advance(style.unit)
            board.caption(0, small.fit(label, names - style.unit), small, soft)
            board.bar(
                names,
                inner - figures,
                max(2, style.unit // 3),
                score_percent / 100,
                soft,
                drop=small.cap // 2,
                flow=False,
            )
            board.text(inner, f"{score_percent} %", small, soft, right=True)
            board.advance(small.cap)
        for name, value in shown.values:
            board.advance(style.unit)
            board.text(0, body.fit(name.replace("_", " "), inner - body.width(value) - style.unit), body, soft)
            board.text(inner, value, body, ink, right=True)
            board.advance(body.cap)
    return board.layer()


# The head-up display: how the run is doing


def _digest(hud: Hud) -> Hashable:
    """The figures rounded as they are shown."""
    return (
        round(hud.camera_fps, 1), round(hud.infer_fps, 1), round(hud.display_fps, 1), hud.target_fps,
        tuple((name, round(value, 1)) for name, value in hud.latency_ms.items()),
        tuple(hud.drops.items()), _share(hud.workers_busy), hud.workers, hud.restarts, hud.source, hud.model,
        _health_text(hud), hud.idle,
    )  # fmt: skip


def _health_text(hud: Hud) -> str:
    """Such as '54 C, CPU 63 %': whole figures, which do not change with every sample."""
    temperature, cpu = hud.health.temperature_c, hud.health.cpu
    parts = [f"{temperature:.0f} C"] if temperature is not None else []
    return ", ".join(parts + ([f"CPU {_percent(cpu)}"] if cpu is not None else []))


def _hud_panel(style: Style, hud: Hud) -> Layer:
    judged = hud.target_fps
    rates = (
        ("camera", hud.camera_fps, judged), ("infer", hud.infer_fps, 0 if hud.idle else judged),
        ("display", hud.display_fps, judged),
    )  # fmt: skip
    if style.detail == 0:
        return _rates_strip(style, rates)
    body, small = style.body, style.small
    inner = min(style.width - 2 * style.margin - 2 * style.pad, (23 if style.detail > 1 else 20) * style.unit)
    board = _Board(inner, style.pad)
    for column, (name, fps, target) in enumerate(rates):
        x = inner * column * 36 // 100
        board.caption(x, name.upper(), small)
        board.text(x, f"{fps:.1f}", style.figure, RATING_COLOURS[rate(fps, target)], drop=round(small.cap * 2))
    board.advance(small.cap * 2 + style.figure.cap + style.unit)
    total = hud.latency_ms.get("total", 0.0)
    if hud.target_fps > 0 and style.detail > 1:
        board.caption(0, f"target {hud.target_fps:g} fps", small, FAINT)
        board.advance(small.cap)
    board.advance(style.unit)
    board.caption(0, "latency", body)
    board.text(inner, f"{total:.1f} ms", body, WHITE, right=True)
    board.advance(body.cap + style.unit // 2 + 2)
    stages = {name: hud.latency_ms.get(name, 0.0) for name in STAGE_COLOURS}
    board.stack(inner, max(3, style.unit // 2), [(max(ms, 0.0), STAGE_COLOURS[name]) for name, ms in stages.items()])
    dropped = sum(hud.drops.values())
    if style.detail == 1:
        board.advance(style.unit)
        board.text(0, f"drops {dropped}", small, AMBER if dropped else SOFT)
        board.text(inner, f"{hud.workers} x {_percent(hud.workers_busy)}", small, SOFT, right=True)
        board.advance(small.cap)
        return board.layer()

    for index, (name, ms) in enumerate(stages.items()):
        column = index % 2
        if column == 0:
            board.advance(round(style.unit * 0.9))
        x, width = (0, inner * 47 // 100) if column == 0 else (inner * 53 // 100, inner - inner * 53 // 100)
        board.dot(x, small.cap, STAGE_COLOURS[name])
        board.caption(x + round(small.cap * 1.6), name, small)
        board.text(x + width, f"{ms:.1f}", small, WHITE, right=True)
        if column == 1:
            board.advance(small.cap)
    board.advance(small.cap + round(style.unit * 1.4))

    board.caption(0, "drops", body)
    board.text(inner, str(dropped), body, WHITE, right=True)
    board.advance(body.cap)
    reasons = ", ".join(f"{reason} {count}" for reason, count in hud.drops.items() if count)
    if reasons:
        board.advance(round(style.unit * 0.8))
        board.text(0, small.fit(reasons, inner), small, FAINT)
        board.advance(small.cap)
    board.advance(style.unit)
    board.caption(0, f"{hud.workers} worker{'' if hud.workers == 1 else 's'} busy", body)
    board.text(inner, _percent(hud.workers_busy), body, WHITE, right=True)
    board.advance(body.cap + style.unit // 2 + 2)
    board.bar(0, inner, max(3, style.unit // 3), hud.workers_busy, SOFT)
    if hud.restarts:
        board.advance(style.unit)
        board.text(0, f"{hud.restarts} restart{'' if hud.restarts == 1 else 's'}", small, AMBER)
        board.advance(small.cap)
    for text in (_health_text(hud), hud.model, hud.source):
        if text:
            board.advance(style.unit)
            board.caption(0, small.fit(text, inner), small, FAINT)
            board.advance(small.cap)
    return board.layer()


def _rates_strip(style: Style, rates: tuple[tuple[str, float, float], ...]) -> Layer:
    """The three rates as bare numbers, for frames where nothing else fits."""
    words = [style.small.layer(f"{fps:.0f}", RATING_COLOURS[rate(fps, target)]) for _, fps, target in rates]
    inner = min(sum(word.width for word in words) + 2 * style.unit, style.width - 2 * style.margin)
    board = _Board(inner, style.pad // 2)
    x = 0
    for word in words:
        board.put(word, x, -1)
        x += word.width + style.unit
    board.advance(style.small.cap)
    return board.layer()


Placed = tuple[Layer, int, int]


class _Board:
    """Collects rows of text and bars on a panel, from the top down; `layer` gives the panel.

    Args:
        inner: width of the content, in pixels.
        pad: pixels around the content.
    """

    def __init__(self, inner: int, pad: int) -> None:
        self._inner = max(1, inner)
        self._pad = pad
        self._y = 0
        self._ground: list[Placed] = []
        self._items: list[Placed] = []

    def advance(self, pixels: int) -> None:
        self._y += pixels

    def put(self, layer: Layer, x: int, drop: int = 0) -> None:
        self._items.append((layer, x + self._pad, self._y + self._pad + drop))

    def caption(self, x: int, text: str, font: Font, colour: Colour = SOFT) -> None:
        """Text that stays the same from one drawing to the next: it becomes part of the ground, drawn once."""
        self._ground.append((font.layer(text, colour), x + self._pad, self._y + self._pad - 1))

    def text(self, x: int, text: str, font: Font, colour: Colour, *, right: bool = False, drop: int = 0) -> None:
        """Capitals start `drop` pixels below the row's top; `right`: x is where the text ends."""
        layer = font.layer(text, colour)
        self.put(layer, x - layer.width if right else x, drop - 1)

    def bar(
        self, x0: int, x1: int, height: int, share: float, colour: Colour, *, drop: int = 0, flow: bool = True
    ) -> None:
        """A track from x0 to x1 filled up to `share`; `flow` moves on to below it."""
        width = max(1, x1 - x0)
        drop = drop - height // 2 if drop else 0
        self.put(_solid(width, height, TRACK), x0, drop)
        filled = round(width * min(max(share, 0.0), 1.0))
        if filled:
            self.put(_solid(filled, height, colour), x0, drop)
        if flow:
            self.advance(height)

    def stack(self, width: int, height: int, parts: list[tuple[float, Colour]]) -> None:
        """A bar divided in proportion to its parts."""
        self.put(_solid(width, height, TRACK), 0)
        total, done = sum(size for size, _ in parts) or 1.0, 0.0
        for size, colour in parts:
            x0, x1 = round(width * done / total), round(width * (done + size) / total)
            if x1 > x0:
                self.put(_solid(x1 - x0, height, colour), x0)
            done += size
        self.advance(height)

    def dot(self, x: int, size: int, colour: Colour) -> None:
        side = max(3, round(size * 0.8))
        self._ground.append((_solid(side, side, colour), x + self._pad, self._y + self._pad + (size - side) // 2))

    def layer(self) -> Layer:
        width, height = self._inner + 2 * self._pad, self._y + 2 * self._pad
        ground = _ground(width, height, max(2, self._pad // 2), tuple(self._ground))
        return _stacked(ground, self._items)


def _stacked(ground: Layer, items: Iterable[Placed]) -> Layer:
    out = Layer(ground.colour.copy(), ground.keep.copy())
    for layer, x, y in items:
        layer.lay_over(out, x, y)
    return out


@lru_cache(maxsize=16)
def _ground(width: int, height: int, radius: int, captions: tuple[Placed, ...]) -> Layer:
    return _stacked(_plate(width, height, radius), captions)


@lru_cache(maxsize=256)
def _solid(width: int, height: int, colour: Colour) -> Layer:
    return Layer.of(np.full((height, width), 255, np.uint8), colour)


@lru_cache(maxsize=16)
def _plate(width: int, height: int, radius: int) -> Layer:
    """The dark ground of a panel, with round corners."""
    shape = np.zeros((height * 4, width * 4), np.uint8)
    r, right, bottom = radius * 4, width * 4 - 1, height * 4 - 1
    cv2.rectangle(shape, (r, 0), (right - r, bottom), (PANEL_OPACITY,), -1)
    cv2.rectangle(shape, (0, r), (right, bottom - r), (PANEL_OPACITY,), -1)
    for x in (r, right - r):
        for y in (r, bottom - r):
            cv2.circle(shape, (x, y), r, (PANEL_OPACITY,), -1)
    return Layer.of(np.asarray(cv2.resize(shape, (width, height), interpolation=cv2.INTER_AREA), np.uint8), INK)


def no_signal(size: tuple[int, int], reason: str, waited_s: float | None = None) -> Pixels:
    """A picture that says that there is none.

    Args:
        size: (width, height).
        reason: why, for people; broken over lines where it is long.
        waited_s: seconds without a picture so far, shown where given.

    Returns:
        (height, width, 3) uint8 BGR.
    """
    width, height = size
    style = _style(width, height)
    picture = np.full((height, width, 3), INK, np.uint8)
    title, body = style.title, Font(round(style.unit * (1.0, 1.1, 1.3)[style.detail]))
    heading = title.fit("NO SIGNAL", width - 2 * style.margin)
    rows = [(heading, title, AMBER)]
    rows += [(line, body, WHITE) for line in _wrap(plain(reason), body, width - 6 * style.margin, 4)]
    if waited_s is not None:
        rows.append((body.fit(f"for {waited_s:.0f} s", width), body, FAINT))
    y = (height - sum(font.cap * 2 for _, font, _ in rows)) // 2
    for text, font, colour in rows:
        layer = font.layer(text, colour)
        layer.lay_on(picture, (width - layer.width) // 2, y)
        y += font.cap * 2
    return picture


def _wrap(text: str, font: Font, width: int, most: int) -> list[str]:
    """Words on at most `most` lines of at most `width` pixels; what does not fit ends in '..'."""
    lines: list[str] = []
    for word in text.split():
        if lines and (len(lines) == most or font.width(f"{lines[-1]} {word}") <= width):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [font.fit(line, width) for line in lines]


def _share(score: float) -> int:
    """Whole per cent, 0 to 100; `nan` is 0."""
    return round(min(max(score, 0.0), 1.0) * 100) if score == score else 0


def _percent(score: float) -> str:
    return f"{_share(score)} %"


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
