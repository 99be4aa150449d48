"""Figures and findings over the image that a Pi's camera shows on the console's screen by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from camapp.capture.source import DrmPreview, DrmPreviewError
from camapp.core.arrays import Pixels
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction
from camapp.core.status import Hud
from camapp.overlay.alpha import with_alpha
from camapp.overlay.overlay import Overlay
from camapp.sinks.sink import PredictionSink
from camapp.system import displays

log = logging.getLogger(__name__)

_DRAW_EVERY, _HUD_EVERY = 0.1, 0.3
# picamera2 refuses overlays until it has drawn its first frame, whether it can show them or not.
_REFUSALS = 10


class DrmDisplaySink(PredictionSink):
    """Looks for a free screen every few seconds, has the camera show itself there, and lays an overlay over it.

    The image costs no Python at all; the overlay is drawn at most 10 times a second and sent only when it changed.
    While the camera is lost the console is seen, for the image is the camera's.

    Args:
        preview: gives the source's, None while there is none.
        hud: the figures of this moment; None hides them.
        stale_after_ms: age from which a prediction is drawn dimmed.
        retry_s: seconds between looking for a screen.
        root: '/' but in tests.
    """

    def __init__(
        self,
        preview: Callable[[], DrmPreview | None],
        hud: Callable[[], Hud | None],
        stale_after_ms: Callable[[], float],
        retry_s: float = 3.0,
        root: Path = Path("/"),
    ) -> None:
        self._preview = preview
        self._make_hud = hud
        self._stale_after_ms = stale_after_ms
        self._retry_s = retry_s
        self._root = root
        self._newest: tuple[Prediction, Trace, tuple[int, int]] | None = None
        self._drawn_of: object = None
        self._overlay = Overlay()
        self._shown: Pixels | None = None
        # To draw on: black, the black one that is shown, white.
        self._canvases: list[Pixels] = []
        self._rgba: Pixels = np.empty((0, 0, 4), np.uint8)
        self._hud: Hud | None = None
        self._hud_at = 0.0
        self._said = ""
        self._refused = 0
        self._screen = displays.Display(displays.DisplayKind.NONE, "")
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="native", daemon=True)

    def start(self) -> None:
        """Look for a screen, in the background."""
        self._thread.start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """The newest prediction."""
        self._newest = prediction, trace, frame.view.size

    def stop(self) -> None:
        """Draw no more; the image goes with its camera."""
        self._stop_event.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _watch(self) -> None:
        looked_at = -self._retry_s
        while not self._stop_event.wait(_DRAW_EVERY):
            preview = self._preview()
            now = time.monotonic()
            opened = preview is not None or self._newest is not None
            if opened and now - looked_at >= self._retry_s:
                looked_at = now
                self._look(preview)
            if preview is None or not preview.showing:
                self._shown, self._refused = None, 0
                continue
            if self._said:
                log.info("the image is on the screen: %s", self._screen.reason)
                self._said = ""
            if self._refused < _REFUSALS:
                self._draw(preview, now)

    def _look(self, preview: DrmPreview | None) -> None:
        """See whether there is a screen, and tell the camera."""
        if preview is None:
            self._say("this source shows no image by itself (only a Pi camera does, unturned): use --display kiosk")
            return
        if preview.requested:
            # Ours now: whether it is free is no question any more, only whether it is still the same screen.
            name = self._screen.reason.partition(" ")[0]
            # A console does not see a cable that is pulled: the image goes on, and is there when it is put back.
            gone = name not in displays.connectors(self._root)
            size = displays.screen_size(name, self._root)
            if gone or size not in (None, self._screen.size):
                self._say(f"{name} is another screen now")
                preview.request(None)
            return
        if preview.trouble:
            self._say(f"no image on {self._screen.reason or 'the screen'}: {preview.trouble}")
        if preview.given_up:
            return
        self._screen = displays.probe_drm(self._root)
        if self._screen:
            preview.request(self._screen.size)
        else:
            self._say(f"{self._screen.reason}; the run goes on without an image")

    def _say(self, message: str) -> None:
        """Warn, once until the image was seen again."""
        if not self._said:
            log.warning("%s", message)
            self._said = message

    def _fit(self, width: int, height: int) -> None:
        """Have canvases of this size. They are kept: new memory each time costs more than the drawing."""
        if self._rgba.shape[:2] != (height, width):
            self._canvases = [np.empty((height, width, 3), np.uint8) for _ in range(3)]
            self._rgba = np.empty((height, width, 4), np.uint8)

    def _draw(self, preview: DrmPreview, now: float) -> None:
        if now - self._hud_at > _HUD_EVERY:
            self._hud_at = now
            hud = self._make_hud()
            # The plane shows every frame that the camera gives.
            self._hud = replace(hud, display_fps=hud.camera_fps) if hud is not None else None
        if self._newest is None:
            return
        prediction, trace, (width, height) = self._newest
        age_ms = (time.monotonic_ns() - trace.captured) / 1e6
        stale = age_ms > self._stale_after_ms()
        of = prediction, self._hud, round(age_ms, -2) if stale else None
        if self._shown is not None and of == self._drawn_of:
            return
        self._drawn_of = of

        def drawn_on(canvas: Pixels, ground: int) -> Pixels:
            canvas.fill(ground)
            self._overlay.draw(canvas, prediction, self._hud, age_ms, stale)
            return canvas

        self._fit(width, height)
        on_black = drawn_on(self._canvases[0], 0)
        if self._shown is not None and np.array_equal(on_black, self._shown):
            return
        try:
            preview.set_overlay(with_alpha(on_black, drawn_on(self._canvases[2], 255), self._rgba))
            self._shown, self._refused = on_black, 0
            self._canvases[:2] = self._canvases[1], on_black
        except DrmPreviewError as error:
            self._drawn_of = None
            self._refused += 1
            if self._refused == _REFUSALS:
                log.warning("no figures over the image on the screen, which goes on without: %s", error)
