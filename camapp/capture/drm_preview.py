"""Shows a Pi camera on the screen of a console by picamera2's own preview (a DRM plane); camapp adds an overlay."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camapp.core.arrays import Pixels

# The first frame arrives before it is drawn, and perhaps one more; the next proves that drawing works.
_FRAMES_UNTIL_DRAWN = 3
# Attempts until a screen is given up.
_MAX_FAILURES = 3
# Frames after which earlier failures no longer count.
_STEADY_FRAMES = 100


class DrmPreviewError(Exception):
    """The overlay could not be laid over the image."""


class DrmPreview:
    """Shows the image of a Pi camera on the screen of a console, without passing through Python.

    Any thread may request a screen. Only the thread that reads the camera switches, between two frames, because
    picamera2's preview is also the event loop that delivers the frames.

    Attributes:
        trouble: why the last attempt failed; "" if it did not.
        given_up: whether it failed too often to be tried again.
    """

    def __init__(self, preview_kinds: Any) -> None:
        self.trouble = ""
        self.given_up = False
        self._kinds = preview_kinds
        self._lock = threading.Lock()
        self._requested: tuple[int, int] | None = None
        self._screen: tuple[int, int] | None = None
        self._camera: Any = None
        self._frames = 0
        self._failures = 0

    @property
    def showing(self) -> bool:
        """Return whether the image is on the screen."""
        return self._screen is not None and self._frames >= _FRAMES_UNTIL_DRAWN

    @property
    def requested(self) -> bool:
        """Return whether a screen was requested and has not failed since."""
        return self._requested is not None

    def request(self, screen: tuple[int, int] | None) -> None:
        """Show the image on a screen of this (width, height); None if it was unplugged, so that the next is new."""
        with self._lock:
            if screen is None:
                self._failures, self.given_up = 0, False
            self._requested = None if self.given_up else screen

    def set_overlay(self, image: Pixels) -> None:
        """Show (h, w, 4) uint8 RGBA over the camera's image, scaled to it.

        Raises:
            DrmPreviewError: picamera2 refused it; the image itself stays on the screen.
        """
        camera = self._camera
        if camera is None or not self.showing:
            raise DrmPreviewError("the image is not on the screen")
        try:
            camera.set_overlay(image)
        # AttributeError: the reading thread is removing the preview at this moment.
        except (RuntimeError, OSError, ValueError, AttributeError) as error:
            raise DrmPreviewError(str(error)) from error

    # -- called by the reading thread only

    @property
    def settled(self) -> bool:
        """Return whether the present state is the requested one."""
        return self._requested == self._screen

    def settle(self, camera: Any) -> None:
        """Switch to the requested state. Raises picamera2's errors if its event loop is broken."""
        with self._lock:
            requested = self._requested
        camera.stop_preview()
        self._camera, self._screen, self._frames = None, None, 0
        if requested is not None:
            width, height = requested
            try:
                # Fails here if the screen is missing or taken, before anything is attached.
                camera.start_preview(self._kinds.DRM, x=0, y=0, width=width, height=height)
            except (RuntimeError, OSError, ValueError) as error:
                self._fail(str(error))
            else:
                self._camera, self._screen, self.trouble = camera, requested, ""
                return
        camera.start_preview(self._kinds.NULL)

    def on_frame(self) -> None:
        """Count a frame that arrived."""
        if self._screen is not None:
            self._frames += 1
            if self._frames == _STEADY_FRAMES:
                self._failures = 0

    def on_timeout(self) -> None:
        """Note that no frame came: a preview that cannot draw looks like this, because its thread has died."""
        if self._screen is not None:
            self._fail("no frame came while the image was on the screen")

    def on_closed(self) -> None:
        """Note that the camera was closed, and its preview with it."""
        self._camera, self._screen, self._frames = None, None, 0

    def _fail(self, reason: str) -> None:
        self.trouble = reason
        with self._lock:
            self._requested = None
            self._failures += 1
            self.given_up = self._failures >= _MAX_FAILURES
