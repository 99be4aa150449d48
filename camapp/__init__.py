"""Real-time camera vision for the Raspberry Pi: frames in, predictions of a NumPy CNN out."""

# ruff: noqa: F403, F405 - the names are those of `camapp.api`

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camapp.api import *

__version__ = "0.2.0"

__all__ = [
    "BadModel", "Box", "CamappError", "EndOfStream", "Event", "Frame", "Image", "ImageSink", "KeyPoint", "Layout",
    "LineState", "Model", "Polyline", "Prediction", "PredictionSink", "Prepared", "Result", "Shot", "Source",
    "SourceLost", "SourceOptions", "Task", "TaskOptions", "Trace", "Trigger", "Watch", "ZoneState", "draw", "load",
    "watch",
]  # fmt: skip

# A file of a few MB may decode to gigabytes. The largest images of cameras have 200 million pixels. OpenCV's own limit
# is four times this one, and OpenCV reads the variable only when it is loaded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))


def __getattr__(name: str) -> Any:
    """Import the API on the first use of a name: NumPy and OpenCV are slow to import."""
    if name not in __all__:
        raise AttributeError(f"module 'camapp' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("camapp.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
