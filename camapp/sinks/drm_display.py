"""Draws the overlay over the camera image that picamera2 shows on a console screen by itself (a DRM plane)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from camapp.capture.drm_preview import DrmPreview, DrmPreviewError
from camapp.core.arrays import Pixels
from camapp.core.frames import Frame, Trace
from camapp.core.log_once import LogOnce
from camapp.core.predictions import Prediction
from camapp.core.status import Hud
from camapp.overlay.alpha import with_alpha
from camapp.overlay.overlay import Overlay
from camapp.sinks.sink import PredictionSink, guarded
from camapp.system import displays

log = logging.getLogger(__name__)

_DRAW_EVERY_S, _HUD_EVERY_S = 0.1, 0.3


class DrmDisplaySink(PredictionSink):
    """Looks for a free screen every few seconds, starts the camera's preview there, and draws an overlay over it.

    The image takes no Python code at all; the overlay is drawn at most 10 times a second and sent only if it has
    changed. Without a camera there is no DRM plane, so the text console shows through.

    Args:
        preview: returns the preview of the source, None if it has none.
        hud: returns the present statistics; None hides them.
        stale_after_ms: returns the age from which a prediction is drawn dimmed.
        retry_s: seconds between two searches for a screen.
        root: '/' except in tests.
        paused: returns whether the run is paused.
        max_refusals: refused overlays after which none is drawn any more. picamera2 refuses overlays until it has drawn
            its first frame, whether it can show them or not.
    """

    def __init__(
        self,
        preview: Callable[[], DrmPreview | None],
        hud: Callable[[], Hud | None],
        stale_after_ms: Callable[[], float],
        retry_s: float = 3.0,
        root: Path = Path("/"),
        max_refusals: int = 10,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._preview = preview
        self._get_hud = hud
        self._stale_after_ms = stale_after_ms
        self._retry_s = retry_s
        self._root = root
        self._max_refusals = max_refusals
        self._paused = paused
        self._newest: tuple[Prediction, Trace, tuple[int, int]] | None = None
        self._drawn_content: object = None
        self._overlay = Overlay()
        self._shown: Pixels | None = None
        # One that is drawn on black, the black one that is on the screen, one that is drawn on white.
        self._canvases: list[Pixels] = []
        self._rgba: Pixels = np.empty((0, 0, 4), np.uint8)
        self._hud: Hud | None = None
        self._hud_at = 0.0
        self._reported = ""
        self._refusals = 0
        self._searched_at = -retry_s
        self._log_once = LogOnce(log)
        self._screen = displays.Display(displays.DisplayKind.NONE, "")
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drm-display", daemon=True)

    def start(self) -> None:
        """Start looking for a screen, in the background."""
        self._thread.start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Keep the newest prediction."""
        self._newest = prediction, trace, frame.view.size

    def stop(self) -> None:
        """Stop drawing; the image disappears with its camera."""
        self._stop_event.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop_event.wait(_DRAW_EVERY_S):
            guarded(self._log_once, self, self._update)

    def _update(self) -> None:
        preview = self._preview()
        now = time.monotonic()
        opened = preview is not None or self._newest is not None
        if opened and now - self._searched_at >= self._retry_s:
            self._searched_at = now
            self._search(preview)
        if preview is None or not preview.showing:
            self._shown, self._refusals = None, 0
            return
        if self._reported:
            log.info("the image is on the screen: %s", self._screen.reason)
            self._reported = ""
        if self._refusals < self._max_refusals:
            self._draw(preview, now)

    def _search(self, preview: DrmPreview | None) -> None:
        """Look for a screen, and have the camera show its image there."""
        if preview is None:
            self._report("only an unrotated Pi camera shows its image on a console by itself: use --display kiosk")
            return
        if preview.requested:
            # This process holds the screen, so only check that it is still the same one. The console does not notice
            # an unplugged cable: the preview continues, and is visible when the cable is back.
            name = self._screen.reason.partition(" ")[0]
            gone = name not in displays.connectors(self._root)
            size = displays.screen_size(name, self._root)
            if gone or size not in (None, self._screen.size):
                self._report(f"{name} is another screen now")
                preview.request(None)
            return
        if preview.trouble:
            self._report(f"no image on {self._screen.reason or 'the screen'}: {preview.trouble}")
        if preview.given_up:
            return
        self._screen = displays.probe_drm(self._root)
        if self._screen:
            preview.request(self._screen.size)
        else:
            self._report(f"{self._screen.reason}; the run continues without an image")

    def _report(self, message: str) -> None:
        """Log the first problem since the image was last on the screen."""
        if not self._reported:
            log.warning("%s", message)
            self._reported = message

    def _draw(self, preview: DrmPreview, now: float) -> None:
        if now - self._hud_at > _HUD_EVERY_S:
            self._hud_at = now
            hud = self._get_hud()
            # The plane shows every frame of the camera.
            self._hud = replace(hud, display_fps=hud.camera_fps) if hud is not None else None
        if self._newest is None:
            return
        prediction, trace, (width, height) = self._newest
        age_ms = (time.monotonic_ns() - trace.captured) / 1e6
        stale = age_ms > self._stale_after_ms()
        paused = self._paused()
        content = prediction, self._hud, round(age_ms, -2) if stale else None, paused
        if self._shown is not None and content == self._drawn_content:
            return
        self._drawn_content = content

        def drawn_on(canvas: Pixels, background: int) -> Pixels:
            canvas.fill(background)
            self._overlay.draw(canvas, prediction, self._hud, age_ms, stale, paused)
            return canvas

        if self._rgba.shape[:2] != (height, width):
            # Reused: new memory each time costs more than the drawing.
            self._canvases = [np.empty((height, width, 3), np.uint8) for _ in range(3)]
            self._rgba = np.empty((height, width, 4), np.uint8)
        on_black = drawn_on(self._canvases[0], 0)
        if self._shown is not None and np.array_equal(on_black, self._shown):
            return
        try:
            preview.set_overlay(with_alpha(on_black, drawn_on(self._canvases[2], 255), self._rgba))
            self._shown, self._refusals = on_black, 0
            self._canvases[:2] = self._canvases[1], on_black
        except DrmPreviewError as error:
            self._drawn_content = None
            self._refusals += 1
            if self._refusals == self._max_refusals:
                log.warning("no overlay over the image on the screen, which continues without it: %s", error)
