"""Names of files in natural order."""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"(\d+)")


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort key under which 'img2' comes before 'img10'."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(text) if part]
