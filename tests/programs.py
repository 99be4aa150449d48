"""Programs that some tests need and the product does not, what a program has started, and waits for what it does."""

import shutil
import time
from collections.abc import Callable
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


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until a condition is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        time.sleep(0.01)
