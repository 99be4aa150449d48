"""Names inputs for FFmpeg, so that it takes none for something else, and finds its libraries."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import cv2  # noqa: F401 - brings FFmpeg along

from camapp.capture.libav import loaded_libraries


@cache
def libraries() -> list[str]:
    """Return the paths of the FFmpeg libraries that OpenCV has brought along, in the order to load them."""
    return loaded_libraries()


def file_url(path: Path) -> str:
    """Return the URL of a file: colons, dashes and names of protocols in it mean nothing, and any bytes are allowed."""
    return "file:" + os.fsencode(path.absolute()).decode("latin-1")


def stream_options(scheme: str) -> dict[str, str]:
    """Return FFmpeg's options for a stream: the user's, in OpenCV's variable, or TCP for RTSP, as it loses nothing."""
    if given := os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS"):
        pairs = (pair.partition(";") for pair in given.split("|"))
        return {name: value for name, _, value in pairs if name}
    return {"rtsp_flags": "prefer_tcp"} if scheme.startswith("rtsp") else {}
