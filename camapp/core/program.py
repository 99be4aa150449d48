"""Tells how this program was started, so that messages name commands that can be typed again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

_PACKAGES = ("camapp", "weights", "engine")
# In the sources of messages and helps a command stands between quotes, as 'camapp models'.
_COMMAND = re.compile(r"(?<=')camapp(?= [a-z-]+[ '])")


@cache
def program() -> str:
    """Return how to start camapp as it was started: `camapp`, `.venv/bin/camapp`, `python -m camapp`.

    For a Python program that imports it, that is `camapp`.
    """
    path = Path(sys.argv[0])
    if path.name == "__main__.py" and path.parent.name in _PACKAGES:
        return f"{shlex.quote(sys.orig_argv[0])} -m camapp"
    if path.name != "camapp":
        return "camapp"
    found = shutil.which("camapp")
    if found is not None and os.path.abspath(found) == os.path.abspath(path):
        return "camapp"
    return shlex.quote(str(path))


def spelled(text: str) -> str:
    """Return a text with its commands, such as 'camapp models', spelled as this program was started."""
    return _COMMAND.sub(lambda _: program(), text)
