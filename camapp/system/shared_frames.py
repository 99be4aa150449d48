"""Passes drawn images to other processes through shared memory: the newest wins, and no image is ever torn.

A slot has one owner at a time. The writer owns the slots that no reader holds; a reader owns the slot that it took
until it reports that it is done. One slot for each reader, one for the newest image and one to draw in: no side waits.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from camapp.core.arrays import Pixels

# The `seq` of an image that shows no frame, such as 'no signal'.
NO_FRAME = -1
# Descriptor and shape (slots, height, width) of a memory.
Memory = tuple[int, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """A drawn frame that a reader holds.

    Attributes:
        generation: of the memory, which is new for each frame size.
        slot: index into the memory's images.
        seq: the frame's number, or NO_FRAME.
        serial: number of the published image, from 1.
    """

    generation: int
    slot: int
    seq: int
    serial: int


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
    """Owns the memory on the writer's side. Safe to use from several threads.

    Args:
        readers: number of readers; each may hold one frame at a time.
    """

    def __init__(self, readers: int = 1) -> None:
        self.slots = readers + 2
        self.generation = 0
        self._lock = threading.Lock()
        self._fd = -1
        self._images: Pixels = np.empty((0, 0, 0, 3), np.uint8)
        self._held = [0] * self.slots
        self._newest: ReadFrame | None = None
        self._drawing: tuple[int, Pixels] | None = None
        self._published = 0

    @property
    def fd(self) -> int:
        """Return the descriptor of this generation's memory; -1 before the first frame."""
        return self._fd

    @property
    def size(self) -> tuple[int, int]:
        """Return the (height, width) of this generation's frames."""
        return self._images.shape[1], self._images.shape[2]

    def acquire(self, height: int, width: int) -> Pixels:
        """Return a (height, width, 3) uint8 slot to draw in; valid until `publish` or the next `acquire`.

        A new size allocates new memory: `generation` rises, `fd` changes, and frames taken before stay readable.
        """
        with self._lock:
            if (height, width) != self.size:
                self._renew(height, width)
            newest = self._newest.slot if self._newest else -1
            slot = next(slot for slot in range(self.slots) if not self._held[slot] and slot != newest)
            self._drawing = slot, self._images[slot]
            return self._drawing[1]

    def publish(self, image: Pixels, seq: int) -> None:
        """Make `image` the newest. A slot from `acquire` is not copied, any other array is."""
        drawing = self._drawing
        if drawing is None or image is not drawing[1]:
            np.copyto(self.acquire(image.shape[0], image.shape[1]), image)
        with self._lock:
            if self._drawing is not None:
                self._published += 1
                self._newest = ReadFrame(self.generation, self._drawing[0], seq, self._published)
                self._drawing = None

    def take(self, after: int = 0) -> ReadFrame | None:
        """Return the newest frame, held until `release`; None unless it is newer than serial number `after`."""
        with self._lock:
            taken = self._newest
            if taken is None or taken.serial <= after:
                return None
            self._held[taken.slot] += 1
            return taken

    def release(self, taken: ReadFrame) -> None:
        """Return a frame that a reader is done with. Frames of an earlier generation are ignored."""
        with self._lock:
            if taken.generation == self.generation and self._held[taken.slot]:
                self._held[taken.slot] -= 1

    def close(self) -> None:
        """Release the memory; the kernel frees it once no process maps it."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._images = np.empty((0, 0, 0, 3), np.uint8)
            self._newest = self._drawing = None

    def _renew(self, height: int, width: int) -> None:
        fd = os.memfd_create("camapp-frames", os.MFD_CLOEXEC)
        try:
            # Fails now if memory is short; after ftruncate alone the first write would raise SIGBUS.
            os.posix_fallocate(fd, 0, self.slots * height * width * 3)
            images = map_slots(fd, self.slots, height, width)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._images = fd, images
        self.generation += 1
        self._held = [0] * self.slots
        self._newest = self._drawing = None


class FramePublisher:
    """Hands the newest image to one reader process, which has at most one at a time and reports when it is done.

    Safe to use from several threads. Neither a slow reader nor one that ended blocks `publish`.

    Args:
        send: sends a frame to the reader; before the first of a size with the memory's descriptor and its shape
            (slots, height, width), else None. Returns False if the reader does not accept it.

    Attributes:
        wanted: whether the reader wants images; the owner sets it.
    """

    def __init__(self, send: Callable[[ReadFrame, Memory | None], bool]) -> None:
        self.wanted = False
        self._send = send
        self._frames = SharedFrames(readers=1)
        self._lock = threading.Lock()
        self._held: ReadFrame | None = None
        self._sent_at = 0.0
        self._last_serial = self._sent_generation = 0

    def publish(self, image: Pixels, seq: int) -> None:
        """Make `image` the newest; an older one that was not sent is dropped. Costs one copy."""
        self._frames.publish(image, seq)
        self.offer()

    def offer(self) -> None:
        """Send the newest image, if it is new, wanted, and the reader has none."""
        with self._lock:
            frame = self._frames.take(self._last_serial) if self.wanted and self._held is None else None
            if frame is None:
                return
            is_known = frame.generation == self._sent_generation
            memory = None if is_known else (self._frames.fd, (self._frames.slots, *self._frames.size))
            if self._send(frame, memory):
                self._held, self._sent_at = frame, time.monotonic()
                self._last_serial, self._sent_generation = frame.serial, frame.generation
            else:
                self._frames.release(frame)

    def release(self) -> ReadFrame | None:
        """Note that the reader is done with its frame, and offer the next; return the former."""
        with self._lock:
            frame, self._held = self._held, None
        if frame is not None:
            self._frames.release(frame)
            self.offer()
        return frame

    def held_s(self) -> float:
        """Return for how many seconds the reader has held a frame; 0 if it holds none."""
        with self._lock:
            return time.monotonic() - self._sent_at if self._held is not None else 0.0

    def reset(self) -> None:
        """Forget a reader that ended; the next one starts with the newest image, once `wanted` is set."""
        with self._lock:
            self.wanted = False
            if self._held is not None:
                self._frames.release(self._held)
            self._held, self._last_serial, self._sent_generation = None, 0, 0

    def close(self) -> None:
        """Release the memory."""
        self._frames.close()
