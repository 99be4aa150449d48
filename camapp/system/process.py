"""Reads the CPU time and memory of processes from /proc, and prepares child processes and memory to share with them."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from contextlib import AbstractContextManager
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


def shared_memory(name: str, size: int) -> int:
    """Return the descriptor of new memory that other processes can map. Raises OSError if there is not enough."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        # After ftruncate alone, the first write to memory that is not there would raise SIGBUS.
        os.posix_fallocate(fd, 0, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def blas_threads(threads: int) -> dict[str, str]:
    """Return environment variables that set the number of threads of any BLAS; effective before NumPy is imported."""
    return {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP", "MKL", "BLIS")}


def limit_blas(threads: int) -> AbstractContextManager[object]:
    """Set the number of threads of every loaded BLAS, at once; leaving the context sets the number before.

    A process that plans nets for workers does so with the workers' number: with another one, other kernels are faster.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(threads, user_api="blas")
    return limits


def signal_name(number: int) -> str:
    """Return the name of a signal, such as 'SIGKILL'; '35' for a real-time signal, most of which have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


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
