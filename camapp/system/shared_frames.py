"""Drawn frames in shared memory: one writer, readers in other processes, newest wins, nothing is ever torn.

A slot has one owner at a time. The writer owns the slots that no reader holds; a reader owns what it took until it
says that it is done. With a slot for each reader, one for the newest and one to draw in, nobody waits.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass

import numpy as np

from camapp.core.arrays import Pixels


@dataclass(frozen=True, slots=True)
class ReadFrame:
    """A drawn frame in a reader's hands.

    Attributes:
        generation: of the memory, which is new for each frame size.
        slot: which part of it.
        seq: the frame's number.
        serial: counts what was published, from 1.
    """

    generation: int
    slot: int
    seq: int
    serial: int


def map_slots(fd: int, slots: int, height: int, width: int) -> Pixels:
    """The (slots, height, width, 3) uint8 images behind a descriptor. The mapping lives as long as the array.

    Raises:
        ValueError: the memory is smaller than that.
    """
    size = slots * height * width * 3
    memory = mmap.mmap(fd, size)  # refuses a length beyond the file's
    return np.frombuffer(memory, np.uint8, size).reshape(slots, height, width, 3)


class SharedFrames:
    """The writer's side. Safe to use from several threads.

    Args:
        readers: how many there are; each may hold one frame at a time.
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
        """Descriptor of the memory of this generation; -1 before the first frame."""
        return self._fd

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames of this generation."""
        return self._images.shape[1], self._images.shape[2]

    def acquire(self, height: int, width: int) -> Pixels:
        """A (height, width, 3) uint8 slot to draw the next frame in; valid until `publish` or the next `acquire`.

        A new size makes new memory: `generation` rises, `fd` changes, and frames taken before stay readable.
        """
        with self._lock:
            if (height, width) != self.size:
                self._renew(height, width)
            newest = self._newest.slot if self._newest else -1
            slot = next(slot for slot in range(self.slots) if not self._held[slot] and slot != newest)
            self._drawing = slot, self._images[slot]
            return self._drawing[1]

    def publish(self, image: Pixels, seq: int) -> None:
        """Make an image the newest: a slot from `acquire` as it is, any other by copying it into one."""
        drawing = self._drawing
        if drawing is None or image is not drawing[1]:
            np.copyto(self.acquire(image.shape[0], image.shape[1]), image)
        with self._lock:
            if self._drawing is not None:
                self._published += 1
                self._newest = ReadFrame(self.generation, self._drawing[0], seq, self._published)
                self._drawing = None

    def take(self, after: int = 0) -> ReadFrame | None:
        """The newest frame, to be held until `release`; None unless it is newer than serial number `after`."""
        with self._lock:
            taken = self._newest
            if taken is None or taken.serial <= after:
                return None
            self._held[taken.slot] += 1
            return taken

    def release(self, taken: ReadFrame) -> None:
        """A reader is done with a frame. Frames of an earlier generation are ignored."""
        with self._lock:
            if taken.generation == self.generation and self._held[taken.slot]:
                self._held[taken.slot] -= 1

    def close(self) -> None:
        """Forget the memory; the kernel frees it when the last process that maps it ends or lets go."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._images = np.empty((0, 0, 0, 3), np.uint8)
            self._newest = self._drawing = None

    def _renew(self, height: int, width: int) -> None:
        fd = os.memfd_create("camapp-canvas", os.MFD_CLOEXEC)
        try:
            # Finds out now that memory is short; ftruncate alone would end in SIGBUS at the first touch.
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
