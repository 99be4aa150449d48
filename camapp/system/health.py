"""Monitors the machine's health: temperature, the firmware's throttling flags and CPU load; logs changes."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from camapp.core.status import Health

log = logging.getLogger(__name__)

SAMPLE_EVERY = 5.0
# Raspberry Pi documentation, `vcgencmd get_throttled`: each bit means "now", and 16 bits above it "since boot".
FLAGS = {0x1: "under-voltage", 0x2: "frequency capped", 0x4: "throttled", 0x8: "soft temperature limit"}


def flags_of(value: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the flags in a `get_throttled` value that are set now, and that were set since boot."""
    now = tuple(name for bit, name in FLAGS.items() if value & bit)
    return now, tuple(name for bit, name in FLAGS.items() if value >> 16 & bit)


def read_throttled(root: Path = Path("/")) -> int | None:
    """Return the firmware's throttling flags; None on machines without them.

    `vcgencmd` comes first: reading the kernel's file clears the firmware's bits of "since boot".
    """
    program = shutil.which("vcgencmd") if root == Path("/") else None
    try:
        if program is not None:
            done = subprocess.run([program, "get_throttled"], capture_output=True, text=True, timeout=2, check=True)
            return int(done.stdout.strip().partition("=")[2], 16)
    except (OSError, subprocess.SubprocessError, ValueError):
        log.debug("vcgencmd failed", exc_info=True)
    try:
        return int((root / "sys/devices/platform/soc/soc:firmware/get_throttled").read_text(), 16)
    except (OSError, ValueError):
        return None


def read_temperature(root: Path = Path("/")) -> float | None:
    """Return the temperature of the hottest thermal zone in degrees Celsius."""
    found = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):  # some drivers return an error while they sleep
            continue
    return max(found, default=None)


def read_cpu_times(root: Path = Path("/")) -> tuple[int, int]:
    """Return the (busy, total) clock ticks of all cores since boot."""
    try:
        ticks = [int(field) for field in (root / "proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


class HealthMonitor:
    """Samples in a background thread, as reading the flags may take milliseconds.

    The runs of several cameras share a monitor, which samples at intervals of `every` seconds from the first `start` to
    the last `stop`; `latest` is the last sample. `root` is '/' except in tests, `throttled` reads the firmware's flags.
    """

    def __init__(
        self,
        every: float = SAMPLE_EVERY,
        root: Path = Path("/"),
        throttled: Callable[[Path], int | None] = read_throttled,
    ) -> None:
        self.latest = Health()
        self._every = every
        self._root = root
        self._throttled = throttled
        self._cpu_times = (0, 0)
        self._seen: tuple[str, ...] = ()
        self._runs = 0
        self._lock = threading.Lock()
        self._stop_event = threading.Event()

    def start(self) -> None:
        """Count a run that starts; the first starts the sampling."""
        with self._lock:
            self._runs += 1
            if self._runs == 1:
                self._stop_event = threading.Event()
                threading.Thread(target=self._run, args=(self._stop_event,), name="health", daemon=True).start()

    def stop(self) -> None:
        """Count a run that ends; the last ends the sampling, at once or after the sample being taken."""
        with self._lock:
            self._runs -= 1
            if not self._runs:
                self._stop_event.set()

    def sample(self) -> Health:
        """Take a sample, log changed alerts, and keep it as `latest`."""
        old = self.latest
        now, since_boot = flags_of(self._throttled(self._root) or 0)
        self._seen = tuple(name for name in FLAGS.values() if name in {*self._seen, *since_boot, *now})
        busy, total = read_cpu_times(self._root)
        was_busy, was_total = self._cpu_times
        self._cpu_times = busy, total
        cpu = (busy - was_busy) / (total - was_total) if was_total and total > was_total else None
        health = Health(read_temperature(self._root), cpu, now, self._seen)
        if health.alerts != old.alerts:
            if health.alerts:
                log.warning("the machine is slowed down: %s", describe(health))
            else:
                log.info("the machine is no longer slowed down: %s", describe(health))
        self.latest = health
        return health

    def _run(self, stop: threading.Event) -> None:
        while True:
            self.sample()
            if stop.wait(self._every):
                return


def describe(health: Health) -> str:
    """Return a text such as 'under-voltage, throttled, 81 C, CPU 93 %'."""
    parts = list(health.alerts)
    if health.temperature_c is not None:
        parts.append(f"{health.temperature_c:.0f} C")
    if health.cpu is not None:
        parts.append(f"CPU {health.cpu:.0%}")
    return ", ".join(parts)
