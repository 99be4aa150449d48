"""What several tests of the application share."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from camapp import cli

FAKES = Path(__file__).parents[1] / "fakes"


@pytest.fixture
def fake(monkeypatch):
    """The stand-in for picamera2 (tests/fakes), importable, with no fault planted."""
    monkeypatch.syspath_prepend(str(FAKES))
    import picamera2

    assert Path(picamera2.__file__).parent.parent == FAKES
    picamera2.reset()
    yield picamera2
    picamera2.reset()
    for name in ("picamera2", "libcamera"):
        sys.modules.pop(name, None)


@pytest.fixture
def inside(capfd, monkeypatch):
    """Run the program in this process, for what ends before anything is started: a process takes a second more."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def exit_with(code):
        raise SystemExit(code)

    # The real one ends the process at once if another test has left a stuck thread.
    monkeypatch.setattr(cli, "exit_process", exit_with)
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
    root = logging.getLogger()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["camapp", *map(str, arguments)])
        handlers, level = root.handlers[:], root.level
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        output, errors = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, output, errors)

    return run
