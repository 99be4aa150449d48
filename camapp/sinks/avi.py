"""Writes JPEG images to a Motion JPEG AVI file without decoding them, which a video encoder would have to."""

from __future__ import annotations

import os
import struct
import time
from array import array
from pathlib import Path
from typing import IO

from camapp.core.files import write_all

# RIFF's sizes have 32 bits, and some players read the highest one as a sign.
MAX_BYTES = 1 << 30
_HAS_INDEX, _KEY_FRAME = 0x10, 0x10
_VIDEO = b"00dc"
# Seconds between two updates of the header, by which a player of an unfinished file knows its length.
_UPDATE_S = 1.0
# Length of the header, and the places in it of the rate (images in 1000 s) and of the image's width and height.
_HEADER_BYTES, _RATE_AT, _SIZE_AT = 224, 132, 64


class AviWriter:
    """Appends JPEG images of one size.

    The file can be played at any moment: only its index, by which players jump to a time, is missing until `finish`.

    Args:
        file: open for writing and unbuffered, so that a full disk makes the very write fail that meets it.
        size: (width, height) of the images.
        fps: images a second.
        fresh: whether the file is empty; otherwise it has a header, and images that `finish_left_file` notes.

    Attributes:
        fps: images a second; may be corrected at any time.
    """

    def __init__(self, file: IO[bytes], size: tuple[int, int], fps: float = 1.0, fresh: bool = True) -> None:
        self._file = file
        self._size = size
        self.fps = fps
        # Of each image: its offset in the list of images, after the list's name, and its size.
        self._offsets = array("I")
        self._sizes = array("I")
        self._largest = 0
        self._at = 4
        self._update_at = time.monotonic() + _UPDATE_S
        if fresh:
            write_all(self._file, self._header(has_index=False))

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def bytes_written(self) -> int:
        """Number of bytes so far, without the index."""
        return _HEADER_BYTES - 4 + self._at

    def add(self, jpeg: bytes) -> None:
        """Append an image. Raises OSError; the file then ends with the image before."""
        try:
            write_all(self._file, _chunk(_VIDEO, jpeg))
        except OSError:
            self._file.truncate(self.bytes_written)
            self._file.seek(self.bytes_written)
            raise
        self._note(len(jpeg))
        if time.monotonic() >= self._update_at:
            self._update_at = time.monotonic() + _UPDATE_S
            self._write_header(has_index=False)

    def finish(self) -> None:
        """Write the index and the header. Raises OSError; the file can be played all the same."""
        entries = zip(self._offsets, self._sizes, strict=True)
        index = b"".join(struct.pack("<4sIII", _VIDEO, _KEY_FRAME, at, size) for at, size in entries)
        try:
            write_all(self._file, _chunk(b"idx1", index))
        except OSError:
            self._file.truncate(self.bytes_written)
            self._write_header(has_index=False)
            raise
        self._write_header(has_index=True)

    def _note(self, size: int) -> None:
        self._offsets.append(self._at)
        self._sizes.append(size)
        self._largest = max(self._largest, size)
        self._at += 8 + size + size % 2

    def _write_header(self, has_index: bool) -> None:
        self._file.seek(0)
        write_all(self._file, self._header(has_index))
        self._file.seek(0, os.SEEK_END)

    def _header(self, has_index: bool) -> bytes:
        """Return everything before the first image; see Microsoft's 'AVI RIFF File Reference'."""
        (width, height), frames, fps, largest = self._size, len(self), self.fps, self._largest
        flags = _HAS_INDEX if has_index else 0
        main = struct.pack("<14I", round(1e6 / fps), 0, 0, flags, frames, 0, 1, largest, width, height, 0, 0, 0, 0)
        kind, rate, unknown = b"vidsMJPG", round(1000 * fps), 0xFFFFFFFF
        stream = struct.pack(
            "<8sIHHIIIIIIII4H", kind, 0, 0, 0, 0, 1000, rate, 0, frames, largest, unknown, 0, 0, 0, width, height
        )
        bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 3 * width * height, 0, 0, 0, 0)
        streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", bitmap))
        headers = _list(b"hdrl", _chunk(b"avih", main) + streams)
        # Until it is finished, the list of images lasts to the end of the file.
        whole, images = (4 + len(headers) + 8 + self._at + 8 + 16 * frames, self._at) if has_index else (unknown,) * 2
        riff = struct.pack("<4sI4s", b"RIFF", whole, b"AVI ")
        return riff + headers + struct.pack("<4sI4s", b"LIST", images, b"movi")


def finish_left_file(path: Path) -> int | None:
    """Finish the file of a run that was killed; return its number of images, or None if there is nothing to finish.

    A last image that is not complete is cut off.

    Raises:
        OSError: the file cannot be written; it can be played as it is.
    """
    with path.open("r+b", buffering=0) as file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or header[:4] != b"RIFF" or header[-4:] != b"movi":
            return None
        (rate,) = struct.unpack_from("<I", header, _RATE_AT)
        writer = AviWriter(file, struct.unpack_from("<II", header, _SIZE_AT), max(rate, 1) / 1000, fresh=False)
        while len(head := file.read(8)) == 8:
            kind, size = struct.unpack("<4sI", head)
            end = file.seek(size + size % 2, os.SEEK_CUR)
            if kind == b"idx1":
                return None
            if kind != _VIDEO or end > os.fstat(file.fileno()).st_size:
                break
            writer._note(size)
        file.truncate(writer.bytes_written)
        file.seek(0, os.SEEK_END)
        if len(writer):
            writer.finish()
        return len(writer)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", name, len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, data: bytes) -> bytes:
    return _chunk(b"LIST", name + data)
