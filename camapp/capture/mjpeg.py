"""Reads motion JPEG and single pictures over HTTP, picture by picture; each is decoded by what it is itself."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from camapp.capture.decode_errors import silence
from camapp.capture.decoder import Decoder, End, Picture
from camapp.capture.http_stream import HttpStream
from camapp.capture.images import decode_image
from camapp.capture.source import SourceOptions, redacted
from camapp.capture.stream import Feed, StreamSource
from camapp.core.errors import PermanentSourceError, SourceLost
from camapp.core.log_once import LogOnce

log = logging.getLogger(__name__)

_SOI = b"\xff\xd8\xff"
# A marker in compressed data: 0xff followed by neither 0 (a data byte), nor 0xff (a filler), nor a restart marker.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_EOI, _SOS = 0xD9, 0xDA
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
# Largest picture, and most bytes between two pictures: more is no motion JPEG.
_MAX_PICTURE, _MAX_GAP = 64 << 20, 1 << 20
# Pictures without an end marker, and none with one, after which the camera counts as one that sends no such marker.
_CUT_IN_A_ROW = 3
# Damaged pictures in a row until the stream is given up.
_HOPELESS = 100
# Pictures per second of a still picture's address, unless --fps is given.
_POLL_FPS = 5.0
_HEAD = 1024


class Jpeg(NamedTuple):
    """Holds one picture's bytes and the beginning of its frame header: precision, height, width, components."""

    data: bytes
    frame: bytes

    @property
    def words(self) -> str:
        """Return size and colour sampling, such as '640x480 JPEG 2x2,1x1,1x1'."""
        height, width = int.from_bytes(self.frame[1:3], "big"), int.from_bytes(self.frame[3:5], "big")
        factors = (f"{byte >> 4}x{byte & 15}" for byte in self.frame[7::3])
        return f"{width}x{height} JPEG {','.join(factors)}"


class JpegSplitter:
    """Cuts a byte stream into JPEG pictures by their own markers, whatever stands between them.

    Part headers, boundaries and lengths of a multipart stream are not needed, as many cameras have them wrong.

    Attributes:
        cut: number of pictures whose end was missing; they are left out.
    """

    def __init__(self) -> None:
        self.cut = 0
        self._data = bytearray()
        self._whole = self._gap = 0
        self._begin()

    def add(self, data: bytes) -> Iterator[Jpeg]:
        """Add received bytes; yield each picture that they complete.

        Raises:
            ValueError: this is no motion JPEG; the message says why.
        """
        self._data += data
        while self._is_inside or self._find_start():
            end = self._find_end()
            if end is None:
                if len(self._data) > _MAX_PICTURE:
                    raise ValueError(f"one picture has more than {_MAX_PICTURE >> 20} MB")
                return
            jpeg = Jpeg(bytes(self._data[: abs(end)]), self._frame)
            del self._data[: abs(end)]
            self._begin()
            if end > 0:
                self._whole += 1
            else:
                self.cut += 1
            if jpeg.frame and (end > 0 or (not self._whole and self.cut > _CUT_IN_A_ROW)):
                yield jpeg

    def _begin(self) -> None:
        self._is_inside = self._is_scan = False
        self._at = 2
        self._frame = b""

    def _find_start(self) -> bool:
        start = self._data.find(_SOI)
        skipped = start if start >= 0 else max(0, len(self._data) - len(_SOI) + 1)
        del self._data[:skipped]
        self._gap = self._gap + skipped if start < 0 else 0
        if self._gap > _MAX_GAP:
            raise ValueError(f"there is no JPEG picture in {_MAX_GAP >> 20} MB of it")
        self._is_inside = start >= 0
        return self._is_inside

    def _find_end(self) -> int | None:
        """Return where the picture ends: negative if another one begins instead, None if that has not come yet."""
        data = self._data
        while True:
            if self._is_scan:
                found = _MARKER.search(data, self._at)
                if not found:
                    # The last byte may be half a marker.
                    self._at = max(self._at, len(data) - 1)
                    return None
                self._at, self._is_scan = found.start(), False
            if self._at + 4 > len(data):
                return self._at + 2 if data[self._at : self._at + 2] == b"\xff\xd9" else None
            marker = data[self._at + 1]
            if data[self._at] != 0xFF:
                self._is_scan = True
            elif marker == 0xFF:
                self._at += 1
            elif marker == _EOI:
                return self._at + 2
            elif marker == 0xD8:
                return -self._at
            elif marker in _ALONE:
                self._at += 2
            elif not self._skip_segment(marker):
                return None

    def _skip_segment(self, marker: int) -> bool:
        """Go behind a segment; return False if it is not complete yet."""
        begin = self._at + 2
        end = begin + int.from_bytes(self._data[begin : begin + 2], "big")
        if end > len(self._data):
            return False
        if marker in _FRAME_HEADERS:
            # Without the quantization tables' numbers, which may change with the quality.
            self._frame = bytes(self._data[begin + 2 : min(end, begin + 8 + 3 * self._data[begin + 7])])
        self._is_scan = marker == _SOS or end < begin + 2
        self._at = max(end, begin)
        return True


class MjpegFeed:
    """Decodes the pictures of an endless answer: of those that have arrived, the newest; older ones are left out."""

    def __init__(self, name: str, stream: HttpStream, head: bytes) -> None:
        self._name, self._stream = name, stream
        self._splitter = JpegSplitter()
        self._head = head
        self._decode = _PictureDecoder(name)

    def next(self, timeout: float) -> Picture | End | None:
        """Return the next picture, or the end. Raises TimeoutError, SourceLost, EndOfStream."""
        deadline = time.monotonic() + timeout
        while (jpeg := self._newest(deadline)) is not None:
            if (picture := self._decode(jpeg)) is not None:
                return picture
        return End(0, 0, 0)

    def _newest(self, deadline: float) -> Jpeg | None:
        """Wait for a picture, and return the newest that has arrived; None at the end."""
        found: Jpeg | None = None
        received = 0
        while found is None or (self._stream.has_data() and received < _MAX_PICTURE):
            data, self._head = self._head or self._stream.read(deadline), b""
            if not data:
                break
            received += len(data)
            try:
                for found in self._splitter.add(data):  # noqa: B007 - the last one
                    pass
            except ValueError as error:
                raise SourceLost(f"{self._name} sends no motion JPEG: {error}") from error
            if self._splitter.cut:
                self._decode.note_damage("cut", "some of its pictures are cut off")
        return found

    def close(self) -> None:
        """Hang up."""
        self._stream.close()


class StillFeed:
    """Requests a single picture again and again.

    Args:
        first: content of the first answer.
        fps: requests per second.
    """

    def __init__(self, uri: str, first: bytes, fps: float, stopping: threading.Event) -> None:
        self._uri, self._content, self._stopping = uri, first, stopping
        self._decode = _PictureDecoder(redacted(uri))
        self._period = 1 / fps
        self._due = time.monotonic()

    def next(self, timeout: float) -> Picture | End | None:
        """Return the next picture when it is due. Raises TimeoutError, SourceLost, EndOfStream."""
        while True:
            if not self._content:
                if self._stopping.wait(max(0.0, self._due - time.monotonic())):
                    return None
                self._content = self._fetch(time.monotonic() + timeout)
            self._due = max(self._due + self._period, time.monotonic())
            content, self._content = self._content, b""
            if (picture := self._decode(Jpeg(content, b""))) is not None:
                return picture

    def close(self) -> None:
        """Do nothing: each request has its own connection."""

    def _fetch(self, deadline: float) -> bytes:
        stream = HttpStream(self._uri, deadline, self._stopping, has_worked=True)
        try:
            return read_whole(stream, deadline)
        finally:
            stream.close()


class _PictureDecoder:
    """Decodes pictures; reports changes of their format, and damage once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._warn = LogOnce(log)
        self._before = ""
        self._failures = 0

    def __call__(self, jpeg: Jpeg) -> Picture | None:
        """Return the picture; None if it is damaged. Raises SourceLost if all are."""
        try:
            image = decode_image(jpeg.data)
        except ValueError as error:
            self._failures += 1
            if self._failures >= _HOPELESS:
                raise SourceLost(f"{self._name} sends no pictures that can be decoded: {error}") from error
            self.note_damage("damaged", f"a picture cannot be decoded: {error}")
            return None
        self._failures = 0
        words = jpeg.words if jpeg.frame else f"{image.width}x{image.height}"
        if self._before and words != self._before:
            self._warn(
                logging.WARNING, (self._before, words), "%s changes from %s to %s", self._name, self._before, words
            )
        self._before = words
        return Picture(image, math.nan)

    def note_damage(self, key: str, what: str) -> None:
        """Log a kind of damage once."""
        self._warn(logging.WARNING, key, "%s: %s", self._name, what)


class HttpSource(StreamSource):
    """Reads what an HTTP address gives: motion JPEG, a still picture (requested repeatedly), or a live container."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self._stage = "open"

    def _connect(self, deadline: float) -> Feed:
        self._stage = "open"
        try:
            stream = HttpStream(self.uri, deadline, self.stopping, has_worked=self._has_worked)
        except TimeoutError as error:
            raise silence(self.uri, "open", "", self._open_s) from error
        self._stage = "probe"
        try:
            head = _read_head(stream, deadline)
            feed = self._feed_for(stream, head, deadline)
        except TimeoutError as error:
            stream.close()
            raise silence(self.uri, "probe", "", self._open_s) from error
        except BaseException:
            stream.close()
            raise
        if not isinstance(feed, MjpegFeed):
            stream.close()
        return feed

    def _feed_for(self, stream: HttpStream, head: bytes, deadline: float) -> Feed:
        """Choose by the content; its declared type is often wrong."""
        name = redacted(self.uri)
        if not head:
            raise SourceLost(f"{name} answers with nothing: check the path of the stream")
        is_jpeg = head.startswith(_SOI)
        if stream.kind.startswith("image/") and (stream.length is not None or not is_jpeg):
            content = head + read_whole(stream, deadline)
            fps = self.options.fps or _POLL_FPS
            log.info("%s is a still picture: it is read %g times a second (--fps)", name, fps)
            self.fps = fps
            return StillFeed(self.uri, content, fps, self.stopping)
        start = head.lstrip()
        if is_jpeg or stream.kind.startswith("multipart/") or start[:2] == b"--" or start[:8].lower() == b"content-":
            self.fps = 0.0
            return MjpegFeed(name, stream, head)
        if start[:1] == b"<" or stream.kind == "text/html":
            raise PermanentSourceError(f"{name} is a web page, not a stream: give the address of the stream itself")
        if not start.startswith(b"#EXTM3U"):
            if stream.kind.startswith("text/") or (b"\0" not in head and head.isascii()):
                line = start.split(b"\n")[0][:60].decode(errors="replace")
                raise PermanentSourceError(f"{name} answers with text, not with video: '{line}'")
            if stream.length is not None:
                raise PermanentSourceError(f"{name} is a file, not a live stream: download it, give its path")
        return super()._connect(deadline)

    def _silence(self, seconds: float) -> Exception:
        if isinstance(self._feed, Decoder) or self._has_worked:
            return super()._silence(seconds)
        return silence(self.uri, "probe", "", seconds)


def _read_head(stream: HttpStream, deadline: float) -> bytes:
    """Return the first bytes of an answer: enough to see what it is."""
    head = stream.read(deadline)
    while head and len(head) < 16 and (more := stream.read(deadline)):
        head += more
    return head


def read_whole(stream: HttpStream, deadline: float) -> bytes:
    """Return the rest of an answer.

    Raises:
        TimeoutError: it did not end in time.
        SourceLost: it is too long for a picture.
    """
    content = bytearray()
    while data := stream.read(deadline):
        content += data
        if len(content) > _MAX_PICTURE:
            raise SourceLost(f"the answer has more than {_MAX_PICTURE >> 20} MB, more than any picture")
    return bytes(content)
