"""Reads the sizes of the CPU's caches from Linux."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
# Sizes if Linux does not tell them: a large CPU's last cache, and a level 2 as large as any kernel uses.
LAST, SECOND = 32 << 20, 2 << 20


@cache
def sizes(folder: Path = FOLDER) -> dict[int, int]:
    """Return the bytes of each level's data cache by its number; {} if Linux does not tell them.

    A Raspberry Pi 3 has 512 KiB at level 2 and a Pi 4 1 MiB, shared by four cores; a Pi 5 has 512 KiB for each core
    and 2 MiB at level 3.
    """
    found = {}
    for index in folder.glob("index*"):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return found


def last() -> int:
    """Return the bytes of the largest cache."""
    return max(sizes().values(), default=LAST)


def second() -> int:
    """Return the bytes of the level 2 cache."""
    return sizes().get(2, SECOND)
