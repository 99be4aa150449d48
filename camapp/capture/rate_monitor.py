"""Reports if a camera delivers fewer frames than its configured rate, and whether low light is the cause."""

from __future__ import annotations

import logging
from collections import deque
from itertools import pairwise
from statistics import median

log = logging.getLogger(__name__)

# Number of intervals that a rate is measured over.
_INTERVALS = 30
# Fractions of the configured rate below which a camera is slow, and from which it is not.
_SLOW, _RECOVERED = 0.8, 0.9
# An exposure of this fraction of the frame interval forces the sensor to slow down.
_LONG_EXPOSURE = 0.6


class RateMonitor:
    """Compares the frames of a camera with its configured rate.

    Args:
        min_seconds: time to measure before a report; a camera that adapts to the light needs a second.

    Attributes:
        reason: why the camera is slow, beginning with 'low light' if that is the cause; "" if it is not slow.
    """

    def __init__(self, min_seconds: float = 1.0) -> None:
        self.reason = ""
        self._min_seconds = min_seconds
        self._arrivals: deque[int] = deque(maxlen=_INTERVALS + 1)

    def restart(self) -> None:
        """Forget all frames, because the camera was opened again."""
        self._arrivals.clear()
        self.reason = ""

    def add(self, name: str, fps: float, stamp_ns: int, exposure_us: int = 0) -> None:
        """Add one frame.

        Args:
            fps: configured rate; 0 if there is none.
            stamp_ns: monotonic nanoseconds of the frame.
            exposure_us: exposure time; 0 if unknown.
        """
        self._arrivals.append(stamp_ns)
        seconds = (self._arrivals[-1] - self._arrivals[0]) / 1e9
        if not fps or seconds < self._min_seconds or len(self._arrivals) < 3:
            return
        # The median ignores a single stall.
        rate = 1e9 / median(now - then for then, now in pairwise(self._arrivals))
        if rate >= fps * _RECOVERED:
            if self.reason:
                log.info("%s is at its rate again: %.1f of %g fps", name, rate, fps)
            self.reason = ""
        elif rate < fps * _SLOW:
            reason = _cause(rate, fps, exposure_us)
            # Log each cause once, whatever its numbers.
            if reason.split(",")[0] != self.reason.split(",")[0]:
                log.warning("%s gives %.1f of %g fps: %s", name, rate, fps, reason)
                self.reason = reason


def _cause(rate: float, fps: float, exposure_us: int) -> str:
    if not exposure_us:
        return "perhaps low light (most webcams slow down in it), the cable, or too large a --size"
    if exposure_us >= _LONG_EXPOSURE * 1e6 / rate:
        return f"low light, the exposure takes {exposure_us / 1000:.0f} ms per frame; add light or set ExposureTime"
    other = "the power supply, the heat, other programs, or a screen of fewer Hz under --display drm"
    return f"not low light, the exposure takes {exposure_us / 1000:.1f} ms per frame; perhaps {other}"
