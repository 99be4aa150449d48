"""A camera's images as JPEG files: encoded once for all visitors, in a thread of its own."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable

import cv2

from camapp.core.arrays import Pixels
from camapp.system.shared_frames import map_slots

log = logging.getLogger(__name__)

# Text and thin lines of the overlay stay clean; about 80 kB at 1280x720.
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 80)


class Encoder:
    """Encodes what the run has put into shared memory; it has one image at a time.

    Args:
        wanted: whether anybody waits for images.
        on_jpeg: called with the file and the frame's number; in this thread.
        on_done: called when the memory may be written to again; in this thread.
    """

    def __init__(
        self, wanted: Callable[[], bool], on_jpeg: Callable[[bytes, int], None], on_done: Callable[[], None]
    ) -> None:
        self._wanted = wanted
        self._on_jpeg = on_jpeg
        self._on_done = on_done
        self._images: Pixels | None = None
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="encode", daemon=True)

    def start(self) -> None:
        """Be ready."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        self._queue.put(None)

    def remap(self, descriptor: int, slots: int, height: int, width: int) -> None:
        """The images that follow are in this memory; takes the descriptor over."""

        def change() -> None:
            try:
                self._images = map_slots(descriptor, slots, height, width)
            finally:
                os.close(descriptor)

        self._queue.put(change)

    def offer(self, slot: int, seq: int) -> None:
        """Encode the image in that slot."""

        def encode() -> None:
            try:
                if self._images is not None and self._wanted():
                    _, jpeg = cv2.imencode(".jpg", self._images[slot], _QUALITY)
                    self._on_jpeg(jpeg.tobytes(), seq)
            finally:
                self._on_done()

        self._queue.put(encode)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - the next image may do better
                log.error("an image cannot be encoded: %s: %s", type(error).__name__, error)
