"""For all tests, and the programs they start: kernels by the fixed rule, and no file in the user's own cache."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

os.environ["ENGINE_CHOICES"] = "rule"
os.environ["XDG_STATE_HOME"] = "/nonexistent"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape file names that are not UTF-8 in captured output: pytest-xdist ends the whole run at one."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
