"""Distinguishes a frozen camera (repeated identical images) from a still scene (sensor noise differs)."""

from __future__ import annotations

from collections import deque

from camapp.core.arrays import Floats

# Number of images remembered: a video encoder that restarts now and then repeats the same few images in turn.
MEMORY = 32
# A new image counts if MIN_NEW of the last WINDOW were new: a restart of the encoder alone makes one or two.
MIN_NEW, WINDOW = 4, 16


class FreezeDetector:
    """Measures the time since the last new image. Sensor noise makes every image differ, down to the last bit."""

    def __init__(self) -> None:
        self._hashes: deque[int] = deque(maxlen=MEMORY)
        self._new = deque([True] * WINDOW, maxlen=WINDOW)
        self._since = 0

    def update(self, grey: Floats, now_ns: int) -> float:
        """Return the seconds since the last new image; `grey` (h, w): any numbers that depend on the whole image."""
        digest = hash(grey.tobytes())
        self._new.append(digest not in self._hashes)
        self._hashes.append(digest)
        if self._new[-1] and sum(self._new) >= MIN_NEW:
            self._since = now_ns
        return (now_ns - self._since) / 1e9
