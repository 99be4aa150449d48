"""Publishes a camera's drawn image as JPEG, on request and at a limited rate."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2

from camapp.core.arrays import Pixels
from camapp.core.frames import Trace
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import ImageSink

# A message stays below about 200 kB: brokers keep it, and each new subscriber receives it.
_LONGEST_SIDE = 1280
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 80)


class PictureSink(BackgroundSink[Pixels], ImageSink):
    """Encodes the image that was requested in a background thread.

    Args:
        every_s: shortest interval between two images, seconds; a request within it waits.
        publish: called in the thread with each JPEG file.
    """

    def __init__(self, every_s: float, publish: Callable[[bytes], None]) -> None:
        super().__init__("mqtt-picture", 1)
        self._every_s = every_s
        self._publish = publish
        # The newest request, and the one that was met last: each has one writer.
        self._requested: int | None = None
        self._met: int | None = None
        self._due = 0.0

    def request(self, seq: int) -> None:
        """Publish the image of the frame `seq`, or of a later one."""
        self._requested = seq

    def wanted(self) -> bool:
        """Return whether an image was requested and is due."""
        return self._requested != self._met and time.monotonic() >= self._due

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Publish this image if it is wanted. A notice such as NO SIGNAL is no picture: the last one stays."""
        requested = self._requested
        if trace is None or requested is None or trace.seq < requested or not self.wanted():
            return
        self._met, self._due = requested, time.monotonic() + self._every_s
        self.put(_shrunk(canvas))

    def _handle(self, item: Pixels) -> None:
        _, jpeg = cv2.imencode(".jpg", item, _QUALITY)
        self._publish(jpeg.tobytes())


def _shrunk(image: Pixels) -> Pixels:
    """Return the image, not larger than is published, in memory of its own."""
    height, width = image.shape[:2]
    factor = _LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return image.copy()
    size = max(1, round(width * factor)), max(1, round(height * factor))
    shrunk: Pixels = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shrunk
