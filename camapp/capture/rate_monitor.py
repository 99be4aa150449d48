"""Says when a camera gives fewer frames than it was set to, and whether the light is to blame."""

from __future__ import annotations

import logging
from collections import deque
from itertools import pairwise
from statistics import median

log = logging.getLogger(__name__)

# Frames are judged by this many intervals, and for at least so long: a camera that adapts to the light takes a second.
_INTERVALS, _AT_LEAST_S = 30, 1.0
_SLOW, _WELL = 0.8, 0.9
# Of the time between two frames: an exposure this long leaves a sensor no other choice.
_EXPOSES_MOST = 0.6


class RateMonitor:
    """Compares a camera's frames with the rate it was set to.

    Attributes:
        reason: why it is slow, in words that begin with 'low light' where that is the cause; "" while it is not slow.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._arrivals: deque[int] = deque(maxlen=_INTERVALS + 1)

    def restart(self) -> None:
        """Forget what was: the camera was opened again."""
        self._arrivals.clear()
        self.reason = ""

    def note(self, name: str, fps: float, stamp_ns: int, exposure_us: int = 0) -> None:
        """Take in one frame.

        Args:
            name: of the camera, for the log.
            fps: what it was set to; 0 for no matter what.
            stamp_ns: monotonic nanoseconds of the frame.
            exposure_us: how long it was exposed; 0 where the camera does not tell.
        """
        self._arrivals.append(stamp_ns)
        seconds = (self._arrivals[-1] - self._arrivals[0]) / 1e9
        if not fps or seconds < _AT_LEAST_S or len(self._arrivals) < 3:
            return
        # The median: a stall, whoever caused it, is no rate.
        rate = 1e9 / median(now - then for then, now in pairwise(self._arrivals))
        if rate >= fps * _WELL:
            if self.reason:
                log.info("%s is at its rate again: %.1f of %g fps", name, rate, fps)
            self.reason = ""
        elif rate < fps * _SLOW:
            reason = _explained(rate, fps, exposure_us)
            if reason.split(",")[0] != self.reason.split(",")[0]:  # said once for each cause, whatever its figures
                log.warning("%s gives %.1f of %g fps: %s", name, rate, fps, reason)
                self.reason = reason


def _explained(rate: float, fps: float, exposure_us: int) -> str:
    if not exposure_us:
        return "perhaps low light (most webcams slow down in it), the cable, or too large a --size"
    if exposure_us >= _EXPOSES_MOST * 1e6 / rate:
        return f"low light, it exposes {exposure_us / 1000:.0f} ms a frame; add light or set ExposureTime"
    other = "the power supply, the heat, other programs, or a screen of fewer Hz under --display drm"
    return f"not for the light, it exposes {exposure_us / 1000:.1f} ms a frame: {other}"
