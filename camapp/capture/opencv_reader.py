"""Reads video by OpenCV's own reader, for versions of FFmpeg whose layout `libav` does not know."""

from __future__ import annotations

import ctypes
import math

import cv2
import numpy as np

from camapp.capture.libav import INVALID, UPRIGHT, DecodeError, PictureFormat
from camapp.core.image import silence_opencv

_TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


class OpenCVReader:
    """Decodes a file or address, as `libav.Reader` does; it sees neither mirroring nor a change of the pixel format."""

    def __init__(self, url: str, threads: int) -> None:
        self._url = (
            url.removeprefix("file:").encode("latin-1").decode(errors="replace") if url.startswith("file:") else url
        )
        self._threads = threads
        self.damaged = 0
        self.time_s = math.nan
        self.format: PictureFormat | None = None

    def open(self) -> None:
        """Open the input."""
        silence_opencv()
        self._capture = cv2.VideoCapture(self._url, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise DecodeError("open", INVALID, "OpenCV cannot open it")
        # Their defaults differ from version to version.
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
        self._matrix = _TURNS.get(round(self._capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360, UPRIGHT)
        self.fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames = max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def probe(self) -> None:
        """Do nothing: `open` has done it."""

    def read(self) -> bool:
        """Decode the next picture; return False at the end."""
        if not self._capture.grab():
            return False
        good, picture = self._capture.retrieve()
        if not good:
            return False
        self._picture = np.ascontiguousarray(picture)
        self.time_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        size = picture.shape[1], picture.shape[0]
        self.format = PictureFormat("?", "?", size, size, self._matrix)
        return True

    def convert(self, address: int, stride: int) -> None:
        """Write the newest picture to memory."""
        height, width = self._picture.shape[:2]
        rows = (ctypes.c_uint8 * (stride * height)).from_address(address)
        np.frombuffer(rows, np.uint8).reshape(height, stride)[:, : 3 * width] = self._picture.reshape(height, -1)

    def seek(self, time_s: float) -> bool:
        """Return False: OpenCV's seeking is not exact."""
        return False

    def close(self) -> None:
        """Release the input."""
        self._capture.release()
