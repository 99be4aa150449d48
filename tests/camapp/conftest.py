"""What several tests of the application share."""

import sys
from pathlib import Path

import pytest

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
