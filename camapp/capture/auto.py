"""Chooses a source: a Pi camera, else a webcam, else the built-in pattern."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from camapp.capture.drm_preview import DrmPreview
from camapp.capture.picamera2 import pi_cameras
from camapp.capture.source import Source, SourceOptions, create_source
from camapp.core.errors import SourceAbsent, SourceError, SourceLost
from camapp.core.frames import Shot
from camapp.system.video_devices import video_nodes

log = logging.getLogger(__name__)

PATTERN = "pattern://digits"


class AutoSource(Source):
    """Chooses a source when first opened, and delegates to it; a lost camera is retried, not replaced."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        # Newest frame wins for any choice, because the pipeline is built before the choice is made.
        super().__init__(uri, replace(options, realtime=None))
        self._chosen: Source | None = None

    def open(self) -> None:
        """Choose a source if none was chosen yet, and open it."""
        if self._chosen is None:
            self._choose()
        else:
            self._chosen.open()
        assert self._chosen is not None
        self._chosen.stopping = self.stopping
        self.uri, self.fps = self._chosen.uri, self._chosen.fps

    def try_open(self) -> None:
        """Do nothing: whatever is there is used."""

    def read(self, timeout: float) -> Shot:
        """Return the next shot of the chosen source."""
        if self._chosen is None:
            raise SourceLost("no source is open")
        return self._chosen.read(timeout)

    def close(self) -> None:
        """Close the chosen source and keep the choice."""
        if self._chosen is not None:
            self._chosen.close()

    def describe(self) -> str:
        """Return the description of the chosen source."""
        return self._chosen.describe() if self._chosen is not None else self.uri

    @property
    def slowness(self) -> str:
        """Return why the chosen source is slow."""
        return self._chosen.slowness if self._chosen is not None else ""

    @property
    def drm_preview(self) -> DrmPreview | None:
        """Return the preview of the chosen source."""
        return self._chosen.drm_preview if self._chosen is not None else None

    @property
    def remaining_orientation(self) -> tuple[bool, bool, int]:
        """Return the orientation that the chosen source left to the caller."""
        return self._chosen.remaining_orientation if self._chosen is not None else super().remaining_orientation

    def _choose(self) -> None:
        """Choose a present Pi camera even if it is busy; of webcams, the first that delivers an image."""
        cameras, reasons = _find_pi_cameras()
        if cameras:
            self._chosen = create_source(f"picamera://{cameras[0]['Num']}", self.options)
            self._chosen.open()
            return
        reasons += self._choose_webcam()
        if self._chosen is not None:
            return
        log.warning("no camera found, showing the built-in %s (%s)", PATTERN, "; ".join(reasons))
        self._chosen = create_source(PATTERN, self.options)
        self._chosen.open()

    def _choose_webcam(self) -> list[str]:
        """Open the first webcam that delivers an image; return why those before it, or all, do not."""
        nodes = video_nodes()
        reasons = [] if nodes else ["no webcam is plugged in"]
        for node in nodes:
            if node.problem is not None:
                reasons.append(str(node.problem))
                continue
            source = create_source(f"v4l2://{node.path}", self.options)
            try:
                source.open()
            except SourceError as error:
                source.close()
                reasons.append(str(error))
            else:
                self._chosen = source
                break
        return reasons


class WebcamSource(AutoSource):
    """Chooses the first webcam that delivers an image."""

    def _choose(self) -> None:
        reasons = self._choose_webcam()
        if self._chosen is None:
            raise SourceAbsent("; ".join(reasons))


def _find_pi_cameras() -> tuple[list[dict[str, Any]], list[str]]:
    """Return the Pi cameras, and why there are none."""
    if find_spec("picamera2") is None:
        return [], ["picamera2 is not installed"]
    try:
        cameras = pi_cameras()
    except SourceError as error:
        return [], [str(error)]
    return cameras, [] if cameras else ["libcamera lists no Pi camera"]
