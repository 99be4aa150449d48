"""Passes drawn images to other processes through shared memory: the newest wins, and no image is ever torn.

A slot has one owner at a time: the reader owns the one that it was sent until it reports that it is done, the writer
all others. One slot for the reader, one for the newest image and one to copy into: no side waits.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from camapp.core.arrays import Pixels
from camapp.system.process import shared_memory

# The `seq` of an image that shows no frame, such as 'no signal'.
NO_FRAME = -1
# Descriptor and shape (slots, height, width) of a memory.
Memory = tuple[int, tuple[int, int, int]]
_SLOTS = 3


class ReadFrame(NamedTuple):
    """An image that the reader holds: index into the memory's images, and the frame's number or NO_FRAME."""

    slot: int
    seq: int


def map_slots(fd: int, slots: int, height: int, width: int) -> Pixels:
    """Map the (slots, height, width, 3) uint8 images behind a descriptor; the mapping lives as long as the array.

    Raises:
        ValueError: the memory is smaller.
    """
    size = slots * height * width * 3
    # Raises ValueError if the length exceeds the file's.
    memory = mmap.mmap(fd, size)
    return np.frombuffer(memory, np.uint8, size).reshape(slots, height, width, 3)


class SharedFrames:
    """Hands the newest image to one reader process, which has at most one at a time and reports when it is done.

    One thread publishes; all else may be called from any. Neither a slow reader nor one that ended blocks `publish`.

    Args:
        send: sends an image to the reader; before the first of a size with the memory's descriptor and its shape
            (slots, height, width), else None. Returns False if the reader does not accept it.

    Attributes:
        wanted: whether the reader wants images; the owner sets it.
    """

    def __init__(self, send: Callable[[ReadFrame, Memory | None], bool] = lambda frame, memory: False) -> None:
        self.wanted = False
        self._send = send
        self._lock = threading.Lock()
        self._fd = -1
        self._images: Pixels = np.empty((0, 0, 0, 3), np.uint8)
        self._newest: ReadFrame | None = None
        self._held: ReadFrame | None = None
        self._sent_at = 0.0
        self._is_new = self._is_mapped = False

    def publish(self, image: Pixels, seq: int) -> None:
        """Make `image`, (h, w, 3) uint8, the newest; an older one that was not sent is dropped. Costs one copy.

        A new size allocates new memory; the reader's mapping of the old one stays readable.
        """
        with self._lock:
            if image.shape != self._images.shape[1:]:
                self._renew(image.shape[0], image.shape[1])
            images = self._images
            used = [frame.slot for frame in (self._newest, self._held) if frame is not None]
            slot = next(slot for slot in range(_SLOTS) if slot not in used)
        np.copyto(images[slot], image)
        with self._lock:
            if images is not self._images:
                return  # closed meanwhile
            self._newest, self._is_new = ReadFrame(slot, seq), True
        self.offer()

    def offer(self) -> None:
        """Send the newest image, if it is new, wanted, and the reader has none."""
        with self._lock:
            frame = self._newest
            if frame is None or self._held is not None or not (self.wanted and self._is_new):
                return
            height, width = self._images.shape[1:3]
            if self._send(frame, None if self._is_mapped else (self._fd, (_SLOTS, height, width))):
                self._held, self._sent_at = frame, time.monotonic()
                self._is_new, self._is_mapped = False, True

    def release(self) -> ReadFrame | None:
        """Note that the reader is done with its image, and offer the next; return the former."""
        with self._lock:
            frame, self._held = self._held, None
        if frame is not None:
            self.offer()
        return frame

    def held_s(self) -> float:
        """Return for how many seconds the reader has held an image; 0 if it holds none."""
        with self._lock:
            return time.monotonic() - self._sent_at if self._held is not None else 0.0

    def reset(self) -> None:
        """Forget a reader that ended; the next one starts with the newest image, once `wanted` is set."""
        with self._lock:
            self.wanted = self._is_mapped = False
            self._is_new, self._held = True, None

    def close(self) -> None:
        """Release the memory; the kernel frees it once no process maps it."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._images, self._newest = -1, np.empty((0, 0, 0, 3), np.uint8), None

    def _renew(self, height: int, width: int) -> None:
        fd = shared_memory("camapp-frames", _SLOTS * height * width * 3)
        try:
            images = map_slots(fd, _SLOTS, height, width)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._images, self._newest, self._is_mapped = fd, images, None, False
