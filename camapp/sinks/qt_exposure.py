"""Asks the Qt 5 within OpenCV whether it paints its windows: one opened at a busy moment may stay black for good.

Qt then takes the window for one that is hidden, though it is on the screen, and OpenCV does not tell. Qt is asked by
the names in its library, which lie in a namespace in PyPI's wheels and in none in Debian's package.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

_NAMESPACES = ("14QtOpenCVPython", "")


class _List(ctypes.Structure):
    """QListData::Data of Qt 5; the pointers follow."""

    _fields_ = tuple((name, ctypes.c_int) for name in ("references", "allocated", "begin", "end"))


def is_unpainted() -> bool:
    """Whether a window of this process is shown and not exposed; False where there is no Qt 5 to ask."""
    library = next((path for path in _mapped() if "libQt5Gui" in path), None)
    if library is None:
        return False
    try:
        qt = ctypes.CDLL(library)
    except OSError:  # the package was replaced since
        return False
    for space in _NAMESPACES:
        try:
            data = ctypes.c_void_p.in_dll(qt, f"_ZN{space}22QGuiApplicationPrivate11window_listE").value
            questions = [qt[f"_ZNK{space}7QWindow{name}Ev"] for name in ("9isVisible", "9isExposed")]
        except (AttributeError, ValueError):
            continue
        for question in questions:
            question.argtypes, question.restype = [ctypes.c_void_p], ctypes.c_bool
        visible, exposed = questions
        return data is not None and any(visible(window) and not exposed(window) for window in _pointers(data))
    return False


def _pointers(data: int) -> Iterator[int]:
    found = _List.from_address(data)
    first, width = data + ctypes.sizeof(_List), ctypes.sizeof(ctypes.c_void_p)
    for at in range(found.begin, found.end):
        pointer = ctypes.c_void_p.from_address(first + at * width).value
        if pointer is not None:
            yield pointer


def _mapped() -> set[str]:
    """Files that this process has mapped."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "/" in line}
