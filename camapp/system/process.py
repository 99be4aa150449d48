"""Starts child processes, and reads the CPU time and memory of processes from /proc."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process together with the thread that started it, even while it computes or is stopped.

    If the parent died before this call, the socket to it shows that; the parent's number does not: in a container it
    may be 1.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def blas_threads(threads: int) -> dict[str, str]:
    """Return environment variables that set the number of threads of any BLAS; effective before NumPy is imported."""
    return {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP", "MKL", "BLIS")}


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """Return the user and system time of each process; processes that have ended are left out."""
    used: dict[int, float] = {}
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        # The name, in parentheses, may contain anything; fields 14 and 15 are counted from behind it.
        fields = stat[stat.rindex(")") + 2 :].split()
        used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    return used


def rss_bytes(pids: Iterable[int]) -> int:
    """Return the sum of the resident memory of the processes; a shared page counts in each of them."""
    return _status_bytes(pids, "VmRSS")


def peak_rss_bytes(pids: Iterable[int]) -> int:
    """Return the sum of the peak resident memory of the processes; a shared page counts in each of them."""
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
    wrapper: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module` with stdin and stdout on /dev/null, as the parent's stdout may carry the log.

    Args:
        module: to run.
        arguments: of the child.
        fds: descriptors that it inherits, by the same numbers.
        threads: BLAS threads.
        wrapper: a command that starts the child, such as a kiosk's.
        environment: variables that the child gets unless the user has set them.
        stderr: as `subprocess.Popen` takes it; None leaves it the parent's.

    Raises:
        OSError: the process cannot be started.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        # -P: never import from the current folder.
        [*wrapper, sys.executable, "-P", "-m", module, *arguments],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        # A terminal sends Ctrl-C and Ctrl-Z to the parent's group only.
        process_group=0,
        env={**(environment or {}), **os.environ, **blas_threads(threads), "PYTHONPATH": path},
    )
