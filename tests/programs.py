"""Programs that some tests need and the product does not."""

import shutil

import pytest


def program(name: str) -> str:
    """Return the path of a program; skip the test if it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: sudo apt install {name}")
    return found
