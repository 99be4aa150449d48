"""CPU time and memory of processes, from /proc; and how many BLAS threads they take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def blas_threads(threads: int) -> dict[str, str]:
    """What to set in the environment before NumPy is imported, for whichever BLAS it multiplies with."""
    return {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP", "MKL", "BLIS")}


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system time of each process; those that are gone are left out."""
    used: dict[int, float] = {}
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        # The name, in parentheses, may hold anything; fields 14 and 15 are counted from behind it.
        fields = stat[stat.rindex(")") + 2 :].split()
        used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    return used


def rss_bytes(pids: Iterable[int]) -> int:
    """The resident memory of each process now, summed; pages that they share count in each."""
    return _status_bytes(pids, "VmRSS")


def peak_rss_bytes(pids: Iterable[int]) -> int:
    """The most resident memory each process has had, summed; pages that they share count in each."""
    return _status_bytes(pids, "VmHWM")


def _status_bytes(pids: Iterable[int], name: str) -> int:
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name)), 0)
    return total
