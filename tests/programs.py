"""Programs that some tests need and the product does not, and the processes that a program has started."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Return the path of a program; skip the test if it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: sudo apt install {name}")
    return found


def children_of(pid: int | str = "self") -> list[int]:
    """Return the children of all threads of a process: each child belongs to the thread that started it."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between the listing and the read.
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found
