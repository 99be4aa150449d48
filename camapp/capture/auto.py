"""The source for those who name none: a Pi camera, else a webcam, else the built-in pattern."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from camapp.capture.drm_preview import DrmPreview
from camapp.capture.picamera2 import pi_cameras
from camapp.capture.source import Source, SourceOptions, create_source
from camapp.core.errors import SourceError, SourceLost
from camapp.core.frames import Shot
from camapp.system.video_devices import video_nodes

log = logging.getLogger(__name__)

PATTERN = "pattern://digits"


class AutoSource(Source):
    """Chooses once, when first opened, and then is that source: a camera that is lost is waited for, not replaced."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        # Newest frame wins whatever is chosen: the pipeline is built before the choice is made.
        super().__init__(uri, replace(options, realtime=None))
        self._chosen: Source | None = None

    def open(self) -> None:
        """Choose if that is still to be done, and open."""
        if self._chosen is None:
            self._choose()
        else:
            self._chosen.open()
        assert self._chosen is not None
        self.uri, self.fps = self._chosen.uri, self._chosen.fps

    def read(self, timeout: float) -> Shot:
        """The chosen source's next shot."""
        if self._chosen is None:
            raise SourceLost("no source is open")
        return self._chosen.read(timeout)

    def close(self) -> None:
        """Close the chosen source; the choice stands."""
        if self._chosen is not None:
            self._chosen.close()

    def describe(self) -> str:
        """The chosen source's own words."""
        return self._chosen.describe() if self._chosen is not None else self.uri

    @property
    def slowness(self) -> str:
        """The chosen source's."""
        return self._chosen.slowness if self._chosen is not None else ""

    @property
    def drm_preview(self) -> DrmPreview | None:
        """The chosen source's."""
        return self._chosen.drm_preview if self._chosen is not None else None

    @property
    def remaining_orientation(self) -> tuple[bool, bool, int]:
        """The chosen source's."""
        return self._chosen.remaining_orientation if self._chosen is not None else super().remaining_orientation

    def _choose(self) -> None:
        """A Pi camera that is there is taken even if busy now; of webcams, the first that gives an image."""
        cameras, reasons = _find_pi_cameras()
        if cameras:
            self._chosen = create_source(f"picamera://{cameras[0]['Num']}", self.options)
            self._chosen.open()
            return
        nodes = video_nodes()
        if not nodes:
            reasons.append("no webcam is plugged in")
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
                return
        log.warning("no camera here, showing the built-in %s (%s)", PATTERN, "; ".join(reasons))
        self._chosen = create_source(PATTERN, self.options)
        self._chosen.open()


def _find_pi_cameras() -> tuple[list[dict[str, Any]], list[str]]:
    """The Pi's cameras, and why there are none."""
    if find_spec("picamera2") is None:
        return [], ["picamera2 is not installed"]
    try:
        cameras = pi_cameras()
    except SourceError as error:
        return [], [str(error)]
    return cameras, [] if cameras else ["libcamera lists no Pi camera"]
