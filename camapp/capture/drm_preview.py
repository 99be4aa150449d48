"""The image that picamera2 puts on the screen of a console by itself (a DRM plane): we add only an overlay."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camapp.core.arrays import Pixels

log = logging.getLogger(__name__)

# A frame comes through before it is drawn, and perhaps one more: the next proves that drawing works.
_DRAWN = 3
# A screen that fails so often, with fewer frames than this in between, is not asked again.
_TRIES, _STEADY = 3, 100


class DrmPreviewError(Exception):
    """The overlay could not be laid over the image."""


class DrmPreview:
    """What the thread that reads the camera and the one that draws share of it.

    Others say what they want; only the reading thread switches, between two frames, because picamera2's preview is
    also the event loop that its frames come by.

    Attributes:
        trouble: why the last attempt failed; "" when it did not.
        given_up: it failed too often to be tried again.
    """

    def __init__(self, preview_kinds: Any) -> None:
        self.trouble = ""
        self.given_up = False
        self._kinds = preview_kinds
        self._lock = threading.Lock()
        self._wanted: tuple[int, int] | None = None
        self._screen: tuple[int, int] | None = None
        self._camera: Any = None
        self._frames = 0
        self._failures = 0

    @property
    def showing(self) -> bool:
        """The image is on the screen."""
        return self._screen is not None and self._frames >= _DRAWN

    @property
    def wanted(self) -> bool:
        """Asked for, and not failed since."""
        return self._wanted is not None

    def want(self, screen: tuple[int, int] | None) -> None:
        """Show the image on a screen of this (width, height); None: it was unplugged, the next one is a new one."""
        with self._lock:
            if screen is None:
                self._failures, self.given_up = 0, False
            self._wanted = None if self.given_up else screen

    def lay_over(self, image: Pixels) -> None:
        """Show (h, w, 4) uint8 RGBA over the camera's image, scaled to it.

        Raises:
            DrmPreviewError: picamera2 would not; the image itself goes on.
        """
        camera = self._camera
        if camera is None or not self.showing:
            raise DrmPreviewError("the image is not on the screen")
        try:
            camera.set_overlay(image)
        except (RuntimeError, OSError, ValueError, AttributeError) as error:
            # AttributeError: the reading thread is just taking the preview away.
            raise DrmPreviewError(str(error)) from error

    # -- the reading thread's side

    @property
    def settled(self) -> bool:
        """What is wanted is what is."""
        return self._wanted == self._screen

    def settle(self, camera: Any) -> None:
        """Switch if something else is wanted than is. Raises what picamera2 does when its event loop is broken."""
        with self._lock:
            wanted = self._wanted
        camera.stop_preview()
        self._camera, self._screen, self._frames = None, None, 0
        if wanted is not None:
            width, height = wanted
            try:
                # A missing or taken screen shows here, before anything is attached.
                camera.start_preview(self._kinds.DRM, x=0, y=0, width=width, height=height)
            except (RuntimeError, OSError, ValueError) as error:
                self._failed(str(error))
            else:
                self._camera, self._screen, self.trouble = camera, wanted, ""
                return
        camera.start_preview(self._kinds.NULL)

    def frame(self) -> None:
        """A frame has come through."""
        if self._screen is not None:
            self._frames += 1
            if self._frames == _STEADY:
                self._failures = 0

    def silent(self) -> None:
        """No frame came: what a preview that cannot draw looks like from here, for its thread has died."""
        if self._screen is not None:
            self._failed("no frame came while the image was on the screen")

    def closed(self) -> None:
        """The camera was closed, and its preview with it."""
        self._camera, self._screen, self._frames = None, None, 0

    def _failed(self, why: str) -> None:
        self.trouble = why
        with self._lock:
            self._wanted = None
            self._failures += 1
            self.given_up = self._failures >= _TRIES
