"""CPU time and memory of processes, from /proc; and how many BLAS threads they take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
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


def start_child(
    module: str,
    *arguments: str,
    fds: Sequence[int],
    threads: int = 1,
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module`; its stdin and stdout are nowhere, as the parent's stdout may carry the log.

    Args:
        module: its name.
        arguments: it gets.
        fds: descriptors that it inherits, by the same numbers.
        threads: of BLAS, set before it imports NumPy.
        before: a command that starts it, such as a kiosk's.
        environment: what it finds there unless the user has set that otherwise.
        stderr: as `subprocess.Popen` takes it; None leaves it the parent's.

    Raises:
        OSError: it cannot be started.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        # -P: never import what happens to lie in the user's folder.
        [*before, sys.executable, "-P", "-m", module, *arguments],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        process_group=0,  # a terminal's Ctrl-C and Ctrl-Z are for the parent
        env={**(environment or {}), **os.environ, **blas_threads(threads), "PYTHONPATH": path},
    )
