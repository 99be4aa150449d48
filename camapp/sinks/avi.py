"""Writes JPEG images to a Motion JPEG AVI file without decoding them, which a video encoder would have to."""

from __future__ import annotations

import struct
from typing import IO

# RIFF's sizes have 32 bits, and some players read the highest one as a sign.
MAX_BYTES = 1 << 30
_HAS_INDEX, _KEY_FRAME = 0x10, 0x10
_VIDEO = b"00dc"


class AviWriter:
    """Appends JPEG images of one size; `finish` writes the index and the rate. No player reads the file before that.

    Args:
        file: open for writing and unbuffered, so that a full disk makes the very write fail that meets it.
        size: (width, height) of the images.
    """

    def __init__(self, file: IO[bytes], size: tuple[int, int]) -> None:
        self._file = file
        self._size = size
        self._entries: list[tuple[int, int]] = []
        # Offset in the list of images, after its name.
        self._at = 4
        self._put(self._header(1.0))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes_written(self) -> int:
        """Number of bytes so far, without the index."""
        return len(self._header(1.0)) - 4 + self._at

    def add(self, jpeg: bytes) -> None:
        """Append an image. Raises OSError."""
        self._put(_chunk(_VIDEO, jpeg))
        self._entries.append((self._at, len(jpeg)))
        self._at += 8 + len(jpeg) + len(jpeg) % 2

    def finish(self, fps: float) -> None:
        """Write the index and the header. Raises OSError."""
        entries = (struct.pack("<4sIII", _VIDEO, _KEY_FRAME, at, size) for at, size in self._entries)
        self._put(_chunk(b"idx1", b"".join(entries)))
        self._file.seek(0)
        self._put(self._header(fps))

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        # A disk that is nearly full accepts a part, and refuses the next.
        while view:
            view = view[self._file.write(view) :]

    def _header(self, fps: float) -> bytes:
        """Return everything before the first image; see Microsoft's 'AVI RIFF File Reference'."""
        width, height = self._size
        frames, largest = len(self._entries), max((size for _, size in self._entries), default=0)
        main = struct.pack("<14I", round(1e6 / fps), 0, 0, _HAS_INDEX, frames, 0, 1, largest, width, height, 0, 0, 0, 0)
        kind, rate, unknown = b"vidsMJPG", round(1000 * fps), 0xFFFFFFFF
        stream = struct.pack(
            "<8sIHHIIIIIIII4H", kind, 0, 0, 0, 0, 1000, rate, 0, frames, largest, unknown, 0, 0, 0, width, height
        )
        bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 3 * width * height, 0, 0, 0, 0)
        streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", bitmap))
        headers = _list(b"hdrl", _chunk(b"avih", main) + streams)
        index = 8 + 16 * frames
        riff = struct.pack("<4sI4s", b"RIFF", 4 + len(headers) + 8 + self._at + index, b"AVI ")
        return riff + headers + struct.pack("<4sI4s", b"LIST", self._at, b"movi")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", name, len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, data: bytes) -> bytes:
    return _chunk(b"LIST", name + data)
