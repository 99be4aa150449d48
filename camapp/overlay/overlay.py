"""Draws a Prediction and the head-up display on an image.

The two panels, which change slowly, are drawn into small layers a few times a second and blended into each frame.
Boxes and lines move with the image and are drawn each time. No step touches the whole frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from camapp.core.arrays import Pixels
from camapp.core.keys import Keys
from camapp.core.predictions import Prediction
from camapp.core.status import Hud
from camapp.overlay.annotations import draw_annotations
from camapp.overlay.drive_strip import Strip, strip_layer, uses_strip
from camapp.overlay.hud_panel import digest, draw_badges, panel_layer
from camapp.overlay.keys_panel import keys_layer
from camapp.overlay.prediction_card import CardContent, card_layer
from camapp.overlay.style import Style, style_of
from camapp.overlay.text import Layer

# Numbers that change faster cannot be read.
HUD_INTERVAL_NS = 333_000_000
CARD_INTERVAL_NS = 150_000_000


class Overlay:
    """Draws on frames of any size, and caches its panels; `clock` returns monotonic nanoseconds."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._card = _Cached(CARD_INTERVAL_NS)
        self._panel = _Cached(HUD_INTERVAL_NS)

    def draw(
        self,
        canvas: Pixels,
        prediction: Prediction | None,
        hud: Hud | None,
        age_ms: float,
        stale: bool,
        paused: bool = False,
        truth: str = "",
        exact: bool = False,
        keys: Keys = (),
        knows: str = "",
    ) -> None:
        """Draw on `canvas`, (h, w, 3) uint8 BGR, in place; the prediction's boxes and lines are in its pixels.

        Without a prediction or `hud` that part is left out. A stale prediction is drawn dimmed, with its age. A pause
        is shown without `hud` too.

        Args:
            truth: label of the ground truth; "" takes that of `hud`.
            exact: the image is looked at by itself, so its card is never that of an image shortly before.
            knows: what the model knows, shown if nothing is sure.
            keys: of the window, to list in the middle; none draws no list.
        """
        style = style_of(canvas.shape[1], canvas.shape[0])
        now = self._clock()
        placed: list[tuple[Layer, int, int]] = []
        age = f"{age_ms / 1000:.1f} s ago" if stale else ""
        if prediction is not None and uses_strip(style, prediction):
            strip = Strip.of(prediction, hud, age)
            layer = self._card.get(
                (style, strip), (style, strip.warns, strip.rating), now, lambda: strip_layer(style, strip)
            )
            draw_annotations(canvas, style, prediction, stale, names=False)
            layer.lay_on(canvas, 0, 0)
            self._draw_rest(canvas, style, hud, paused, keys, placed, top=layer.height)
            return
        panel_right, panel_bottom = 0, 0
        if hud is not None:
            panel = self._panel.get(
                (style, digest(hud)), (style, hud.paused, hud.source, hud.model), now, lambda: panel_layer(style, hud)
            )
            placed.append((panel, style.margin, style.margin))
            panel_right, panel_bottom = style.margin + panel.width, style.margin + panel.height
        if prediction is not None:
            truth = truth or (hud.truth if hud else "")
            content = CardContent.of(prediction, truth, age, knows)
            urgent = (style, content.label, content.hint, content.counts, stale)
            card = self._card.get(
                (style, content), content if exact else urgent, now, lambda: card_layer(style, content)
            )
            top = style.height - style.margin - card.height
            beside = top < panel_bottom and panel_right + card.width + 2 * style.margin <= style.width
            placed.append((card, style.margin + (panel_right if beside else 0), top))
            reserved = [(x, max(0, y), layer.width, layer.height) for layer, x, y in placed]
            draw_annotations(canvas, style, prediction, stale, reserved)
        self._draw_rest(canvas, style, hud, paused, keys, placed)

    @staticmethod
    def _draw_rest(
        canvas: Pixels,
        style: Style,
        hud: Hud | None,
        paused: bool,
        keys: Keys,
        placed: list[tuple[Layer, int, int]],
        top: int = 0,
    ) -> None:
        """Draw the list of keys, the badges, below `top`, and the panels that were placed."""
        if keys:
            listed = keys_layer(style, keys)
            placed.append((listed, (style.width - listed.width) // 2, (style.height - listed.height) // 2))
        if hud is not None or paused:
            draw_badges(canvas, style, hud or Hud(paused=True), top)
        for layer, x, y in placed:
            layer.lay_on(canvas, x, y)


class _Cached:
    """A layer that is redrawn if its key has changed, at most once per interval unless the urgent part has changed."""

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
