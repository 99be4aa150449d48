"""Holds a car until a person lets it drive from the page, and stops it again: for `--drive-page`."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# The car stops if the page that lets it drive is silent for this time.
SILENCE_S = 0.5


class GateState(NamedTuple):
    """Whether the car may drive, else why not, and which page lets it drive ("" for none)."""

    driving: bool
    reason: str
    holder: str


class GateHeld(Exception):
    """Another page lets the car drive already."""


class DriveGate:
    """Stops all cars of a run until a page releases them; a stop outranks everything and holds until the next release.

    Any page may stop. One page at a time may let the cars drive: the one that released them, for as long as it goes on
    saying so. Methods may be called from any thread.

    Args:
        clock: monotonic seconds.
        silence_s: time without a sign of that page after which the cars stop.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, silence_s: float = SILENCE_S) -> None:
        self._clock = clock
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._wake: list[Callable[[], object]] = []
        self._reason, self._holder, self._grant, self._heard = "not released yet", "", "", 0.0

    def on_stop(self, wake: Callable[[], object]) -> None:
        """Call `wake` at each order to stop, from the thread of that order; before the run starts."""
        self._wake.append(wake)

    @property
    def state(self) -> GateState:
        """Return the state of this moment."""
        with self._lock:
            self._expire()
            return GateState(bool(self._grant), self._reason, self._holder)

    @property
    def left_s(self) -> float:
        """Return the seconds until the page counts as silent, if nothing is heard of it; infinite while none drives."""
        with self._lock:
            return max(0.0, self._heard + self._silence_s - self._clock()) if self._grant else math.inf

    def stop(self, reason: str) -> None:
        """Stop the cars until the next release."""
        with self._lock:
            self._expire()
            self._reason, self._holder, self._grant = reason, "", ""
        for wake in self._wake:
            wake()

    def release(self, holder: str) -> str:
        """Let the cars drive, for a page that `hold`s them with the secret returned.

        Raises:
            GateHeld: another page holds them.
        """
        with self._lock:
            self._expire()
            if self._grant and self._holder != holder:
                raise GateHeld("another page lets the car drive; stop it first")
            self._reason, self._holder, self._grant, self._heard = "", holder, secrets.token_hex(8), self._clock()
            return self._grant

    def hold(self, grant: str) -> None:
        """Take a sign that the page with this secret is still there; others have no effect."""
        with self._lock:
            self._expire()
            if self._grant and secrets.compare_digest(self._grant.encode(), grant.encode()):
                self._heard = self._clock()

    def _expire(self) -> None:
        if self._grant and self._clock() - self._heard > self._silence_s:
            self._reason, self._holder, self._grant = "the page that let it drive is silent", "", ""
