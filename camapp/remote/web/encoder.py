"""Encodes a camera's images as JPEG, once for all clients, in a background thread."""

from __future__ import annotations

import os
from collections.abc import Callable

import cv2

from camapp.core.arrays import Pixels
from camapp.sinks.background import BackgroundSink
from camapp.system.shared_frames import map_slots

# Text and thin lines of the overlay stay clean; about 80 kB at 1280x720.
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 80)
# The run sends one image at a time, with new memory before some.
_MAX_QUEUED = 16


class Encoder(BackgroundSink[Callable[[], None]]):
    """Encodes images from shared memory; the run sends one at a time.

    Args:
        wanted: returns whether a client waits for images.
        on_jpeg: called in this thread with the file and the frame's number.
        on_done: called in this thread once the memory may be written to again.
    """

    def __init__(
        self, wanted: Callable[[], bool], on_jpeg: Callable[[bytes, int], None], on_done: Callable[[], object]
    ) -> None:
        super().__init__("encode", _MAX_QUEUED)
        self._wanted = wanted
        self._on_jpeg = on_jpeg
        self._on_done = on_done
        self._images: Pixels | None = None

    def remap(self, descriptor: int, slots: int, height: int, width: int) -> None:
        """Use this memory for the images that follow; closes the descriptor."""

        def change() -> None:
            try:
                self._images = map_slots(descriptor, slots, height, width)
            finally:
                os.close(descriptor)

        self.put(change)

    def offer(self, slot: int, seq: int) -> None:
        """Encode the image in a slot."""

        def encode() -> None:
            try:
                if self._images is not None and self._wanted():
                    _, jpeg = cv2.imencode(".jpg", self._images[slot], _QUALITY)
                    self._on_jpeg(jpeg.tobytes(), seq)
            finally:
                self._on_done()

        self.put(encode)

    def _handle(self, item: Callable[[], None]) -> None:
        item()
