"""Reads the sizes of the CPU's caches from Linux, and derives how much a kernel works on at a time."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path("/sys/devices/system/cpu/cpu0")
# Bytes of the last cache if Linux does not state any: of a large CPU.
LARGE = 32 << 20
MIN_GROUP = 256 << 10


@cache
def sizes(folder: Path = FOLDER) -> dict[int, tuple[int, int]]:
    """Return the bytes of each level's data cache, and of a core's part if cores share it; {} if unknown.

    A Raspberry Pi 3 (A53) has 512 KiB at level 2 and a Pi 4 (A72) 1 MiB, for four cores; a Pi 5 (A76) has 512 KiB for
    each core, and 2 MiB at level 3 for four.
    """
    found = {}
    for index in folder.glob("cache/index*"):
        try:
            level, kind, size, cpus = (
                (index / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
            )
            if kind != "Instruction":
                threads = _count((folder / "topology/thread_siblings_list").read_text())
                whole = int(size.removesuffix("K")) << 10
                found[int(level)] = whole, whole * threads // max(threads, _count(cpus))
        except (OSError, ValueError):
            continue
    return found


def _count(cpus: str) -> int:
    """Return the number of CPUs in a list of Linux, such as 0-3,8."""
    ranges = (part.strip().partition("-") for part in cpus.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def last(folder: Path = FOLDER) -> int:
    """Return the bytes of the largest cache."""
    return max((whole for whole, _ in sizes(folder).values()), default=LARGE)


def group_bytes(most: int, folder: Path = FOLDER) -> int:
    """Return the bytes to write and read again before the next ones: half of a core's level 2, MIN_GROUP to `most`.

    On all three Pis that is MIN_GROUP. In a model of their caches, MobileNet blocks in groups of 256 instead of 768 KiB
    move 16 to 26 % fewer bytes from and to memory, for 6 % more instructions. On a Xeon with 2 MiB they take 1.05 to
    1.12 times as long, and Winograd's slabs 1.0 to 1.05 times: there it is `most`.
    """
    _, part = sizes(folder).get(2, (LARGE, LARGE))
    return min(most, max(MIN_GROUP, part // 2))
