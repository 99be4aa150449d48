"""Tells a camera that has stopped, and shows its last image on and on, from one that looks at something still."""

from __future__ import annotations

from collections import deque

from camapp.core.arrays import Floats

MEMORY = 32  # images: a coder that starts anew now and then shows the same few in turn
SOME, OF = 4, 16  # so many images must be new for one to count: a coder's fresh start makes one or two


class FreezeDetector:
    """How long nothing new has been shown. A sensor's noise makes every image new, to the last bit."""

    def __init__(self) -> None:
        self._shown: deque[int] = deque(maxlen=MEMORY)
        self._new = deque([True] * OF, maxlen=OF)
        self._since = 0

    def update(self, grey: Floats, now_ns: int) -> float:
        """Seconds since the image was new.

        Args:
            grey: (h, w) of any numbers that follow from the whole image.
            now_ns: monotonic nanoseconds.
        """
        mark = hash(grey.tobytes())
        self._new.append(mark not in self._shown)
        self._shown.append(mark)
        if self._new[-1] and sum(self._new) >= SOME:
            self._since = now_ns
        return (now_ns - self._since) / 1e9
