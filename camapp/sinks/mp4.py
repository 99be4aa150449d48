"""Writes MP4 files that can be played at any moment, also after a power cut, and that are ordinary ones in the end.

While it is written, a file consists of fragments (ISO/IEC 14496-12, 8.8) of about a second each. `finish` appends the
tables of an ordinary MP4 file, which players need to jump to a time, and turns everything before them into one media
data box by overwriting 16 bytes. A file that was never finished stays playable, and `finish_left_file` finishes it.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from camapp.core.files import write_all

# Units of time per image: rates such as 29.97 are exact enough in thousandths.
_TICKS = 1000
# This box holds the place of the media data box, and marks a file that is not finished.
_PLACE = struct.pack(">I4s8s", 16, b"free", b"camapp\0\0")
_FTYP = struct.pack(">I4s4sI4s4s4s4s", 32, b"ftyp", b"isom", 0x200, b"isom", b"iso5", b"avc1", b"mp41")
_IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_KEY, _NOT_KEY = 0x02000000, 0x01010000
# A fragment without a second key frame is written after this number of seconds.
_LONGEST_FRAGMENT_S = 10.0


class Codec(Protocol):
    """Knows the stream of one kind of encoder."""

    def is_key(self, data: bytes) -> bool:
        """Return whether decoding can begin with this image."""

    def sample(self, data: bytes) -> bytes:
        """Return an image of the encoder's stream in the form that MP4 stores."""

    def entry(self, data: bytes, size: tuple[int, int]) -> bytes:
        """Return the sample entry (the decoder's configuration) of a stream that begins with this key image."""


class H264:
    """Converts H.264 from start codes (Annex B) to lengths; see ISO/IEC 14496-15."""

    _IDR, _SPS, _PPS, _DELIMITER = 5, 7, 8, 9

    def is_key(self, data: bytes) -> bool:
        """Return whether the image is an instantaneous decoder refresh."""
        return any(unit[0] & 31 == self._IDR for unit in _units(data))

    def sample(self, data: bytes) -> bytes:
        """Return the units of an image with their lengths, without the parameter sets, which the entry holds."""
        kept = (unit for unit in _units(data) if unit[0] & 31 not in (self._SPS, self._PPS, self._DELIMITER))
        return b"".join(struct.pack(">I", len(unit)) + unit for unit in kept)

    def entry(self, data: bytes, size: tuple[int, int]) -> bytes:
        """Return the `avc1` box. Raises ValueError if the image has no parameter sets."""
        sets = {kind: unit for unit in _units(data) if (kind := unit[0] & 31) in (self._SPS, self._PPS)}
        if len(sets) < 2:
            raise ValueError("the encoder gives no parameter sets")
        sps, pps = sets[self._SPS], sets[self._PPS]
        avcc = struct.pack(">B3sBBH", 1, sps[1:4], 0xFF, 0xE1, len(sps)) + sps + struct.pack(">BH", 1, len(pps)) + pps
        return _visual_entry(b"avc1", size, _box(b"avcC", avcc))


class Mpeg4:
    """Stores MPEG-4 Visual (ISO/IEC 14496-2) as it is."""

    _VOP, _GROUP = b"\0\0\1\xb6", b"\0\0\1\xb3"

    def is_key(self, data: bytes) -> bool:
        """Return whether the image is coded without others: the two bits after its start code."""
        at = data.find(self._VOP)
        return 0 <= at < len(data) - 4 and data[at + 4] >> 6 == 0

    def sample(self, data: bytes) -> bytes:
        """Return the image unchanged."""
        return data

    def entry(self, data: bytes, size: tuple[int, int]) -> bytes:
        """Return the `mp4v` box; the configuration is what stands before the first image."""
        end = min(at for at in (data.find(self._GROUP), data.find(self._VOP), len(data)) if at >= 0)
        config = _descriptor(5, data[:end])
        # 0x20 is MPEG-4 Visual, 0x11 a stream of images.
        decoder = _descriptor(4, struct.pack(">BB3sII", 0x20, 0x11, bytes(3), 0, 0) + config)
        stream = _descriptor(3, struct.pack(">HB", 1, 0) + decoder + _descriptor(6, b"\2"))
        return _visual_entry(b"mp4v", size, _box(b"esds", bytes(4), stream))


class Mp4Writer:
    """Appends images of one size and rate.

    Args:
        file: empty, open for writing and unbuffered, so that a full disk makes the very write fail that meets it.
        size: (width, height).
        fps: images a second.
        first: first image; a key image.

    Raises:
        OSError: the file cannot be written.
        ValueError: the stream has no configuration of the decoder.
    """

    def __init__(self, file: IO[bytes], codec: Codec, size: tuple[int, int], fps: float, first: bytes) -> None:
        self._file = file
        self._codec = codec
        self._fps = fps
        self._tables = _Tables(size, max(1, round(fps * _TICKS)), codec.entry(first, size))
        self._fragment: list[bytes] = []
        self._begins_with_key = False
        self._end = 0
        self._append(_FTYP + _PLACE + self._tables.moov(fragmented=True))

    def __len__(self) -> int:
        return len(self._tables.sizes) + len(self._fragment)

    @property
    def bytes_written(self) -> int:
        """Number of bytes in the file so far."""
        return self._end

    def add(self, data: bytes) -> None:
        """Append an image as the encoder gives it. Raises OSError; the file then ends with the fragment before."""
        key = self._codec.is_key(data)
        if self._fragment and ((key and len(self._fragment) >= self._fps) or self._is_long()):
            self._flush()
        if not self._fragment:
            self._begins_with_key = key
        self._fragment.append(self._codec.sample(data))

    def finish(self) -> None:
        """Write the last fragment and the tables. Raises OSError; the file is then playable as it is."""
        self._flush()
        _write_tables(self._file, self._tables, self._end)

    def _is_long(self) -> bool:
        return len(self._fragment) >= self._fps * _LONGEST_FRAGMENT_S

    def _flush(self) -> None:
        if not self._fragment:
            return
        tables, samples = self._tables, self._fragment
        head = _fragment_head(len(tables.chunks) + 1, len(tables.sizes), samples, self._begins_with_key)
        data = b"".join(samples)
        begin = self._end + len(head) + 8
        self._append(head + struct.pack(">I4s", 8 + len(data), b"mdat") + data)
        tables.add(begin, [len(sample) for sample in samples], self._begins_with_key)
        self._fragment = []

    def _append(self, data: bytes) -> None:
        """Write at the end, completely or not at all. Raises OSError."""
        try:
            write_all(self._file, data)
        except OSError:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._end += len(data)


class _Tables:
    """The sample tables of a film with one track; 4 to 5 bytes for each image."""

    def __init__(self, size: tuple[int, int], scale: int, entry: bytes) -> None:
        self.size = size
        self.scale = scale
        self.entry = entry
        self.sizes = array("I")
        # The offset in the file and the number of images of each fragment, and the numbers of key images.
        self.chunks = array("I")
        self.counts = array("I")
        self.keys = array("I")

    def add(self, offset: int, sizes: list[int], begins_with_key: bool) -> None:
        if begins_with_key:
            self.keys.append(len(self.sizes) + 1)
        self.chunks.append(offset)
        self.counts.append(len(sizes))
        self.sizes.extend(sizes)

    def moov(self, fragmented: bool) -> bytes:
        """Return the box that describes the film: without samples if these follow in fragments."""
        duration = 0 if fragmented else len(self.sizes) * _TICKS
        width, height = self.size
        mvhd = struct.pack(">IIIIIIH10x36s24xI", 0, 0, 0, self.scale, duration, 0x10000, 0x100, _IDENTITY, 2)
        place = (_IDENTITY, width << 16, height << 16)
        tkhd = struct.pack(">IIIIII8xHHHH36sII", 3, 0, 0, 1, 0, duration, 0, 0, 0, 0, *place)
        mdhd = struct.pack(">IIIIIHH", 0, 0, 0, self.scale, duration, 0x55C4, 0)
        hdlr = struct.pack(">II4s12x", 0, 0, b"vide") + b"camapp\0"
        dinf = _box(b"dinf", _box(b"dref", struct.pack(">II", 0, 1), _box(b"url ", struct.pack(">I", 1))))
        minf = _box(b"minf", _box(b"vmhd", struct.pack(">I8x", 1)), dinf, self._stbl(fragmented))
        mdia = _box(b"mdia", _box(b"mdhd", mdhd), _box(b"hdlr", hdlr), minf)
        trak = _box(b"trak", _box(b"tkhd", tkhd), mdia)
        trex = _box(b"trex", struct.pack(">IIIIII", 0, 1, 1, _TICKS, 0, _NOT_KEY))
        return _box(b"moov", _box(b"mvhd", mvhd), trak, _box(b"mvex", trex) if fragmented else b"")

    def _stbl(self, fragmented: bool) -> bytes:
        stsd = _box(b"stsd", struct.pack(">II", 0, 1), self.entry)
        if fragmented:
            empty = [_box(kind, bytes(8)) for kind in (b"stts", b"stsc", b"stco")]
            return _box(b"stbl", stsd, *empty, _box(b"stsz", bytes(12)))
        runs: list[int] = []
        for number, count in enumerate(self.counts, 1):
            if number == 1 or count != self.counts[number - 2]:
                runs += (number, count, 1)
        return _box(
            b"stbl",
            stsd,
            _box(b"stts", struct.pack(">IIII", 0, 1, len(self.sizes), _TICKS)),
            _box(b"stss", struct.pack(">II", 0, len(self.keys)), _words(self.keys)),
            _box(b"stsc", struct.pack(">II", 0, len(runs) // 3), _words(runs)),
            _box(b"stsz", struct.pack(">III", 0, 0, len(self.sizes)), _words(self.sizes)),
            _box(b"stco", struct.pack(">II", 0, len(self.chunks)), _words(self.chunks)),
        )


def finish_left_file(path: Path) -> int | None:
    """Finish the file of a run that was killed; return its number of images, or None if there is nothing to finish.

    A last fragment that is not complete is cut off.

    Raises:
        OSError: the file cannot be written; it is playable as it is.
    """
    with path.open("r+b", buffering=0) as file:
        if file.read(len(_FTYP) + len(_PLACE)) != _FTYP + _PLACE:
            return None
        boxes = _boxes(file, len(_FTYP) + len(_PLACE), os.fstat(file.fileno()).st_size)
        kind, begin, end = next(boxes, (b"", 0, 0))
        if kind != b"moov":
            return None
        tables = _parsed(_content(file, begin, end))
        fragment = b""
        for kind, begin, last in boxes:
            if kind == b"moof":
                fragment = _content(file, begin, last)
            elif kind == b"mdat" and fragment:
                sizes, key = _samples(fragment)
                tables.add(begin + 8, sizes, key)
                fragment, end = b"", last
        file.truncate(end)
        if tables.sizes:
            file.seek(end)
            _write_tables(file, tables, end)
        return len(tables.sizes)


def _write_tables(file: IO[bytes], tables: _Tables, end: int) -> None:
    try:
        write_all(file, tables.moov(fragmented=False))
        # Only then: a power cut between the two steps leaves a playable file.
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise
    file.seek(len(_FTYP))
    write_all(file, struct.pack(">I4sQ", 1, b"mdat", end - len(_FTYP)))


def _fragment_head(number: int, first: int, samples: list[bytes], begins_with_key: bool) -> bytes:
    """Return the `moof` box; 14496-12, 8.8.4 to 8.8.8."""
    # Data offset, flags of the first image, and the size of each; offsets count from the start of this box.
    sizes = _words([len(sample) for sample in samples])
    tfhd = _box(b"tfhd", struct.pack(">II", 0x020000, 1))
    tfdt = _box(b"tfdt", struct.pack(">IQ", 0x01000000, first * _TICKS))
    mfhd = _box(b"mfhd", struct.pack(">II", 0, number))
    length = 8 + len(mfhd) + 8 + len(tfhd) + len(tfdt) + 8 + 16 + len(sizes)
    flags = _KEY if begins_with_key else _NOT_KEY
    trun = _box(b"trun", struct.pack(">IIiI", 0x000205, len(samples), length + 8, flags), sizes)
    return _box(b"moof", mfhd, _box(b"traf", tfhd, tfdt, trun))


def _samples(moof: bytes) -> tuple[list[int], bool]:
    """Return the sizes of a fragment's images, and whether the first is a key image."""
    trun = _find(moof, b"traf", b"trun")
    _, count, _, flags = struct.unpack_from(">IIiI", trun)
    return list(struct.unpack_from(f">{count}I", trun, 16)), flags == _KEY


def _parsed(moov: bytes) -> _Tables:
    width, height = struct.unpack(">II", _find(moov, b"trak", b"tkhd")[-8:])
    (scale,) = struct.unpack_from(">I", _find(moov, b"trak", b"mdia", b"mdhd"), 12)
    entry = _find(moov, b"trak", b"mdia", b"minf", b"stbl", b"stsd")[8:]
    return _Tables((width >> 16, height >> 16), scale, entry)


def _find(data: bytes, *kinds: bytes) -> bytes:
    """Return the content of a box inside others. Raises ValueError if there is none."""
    for kind in kinds:
        at = 0
        while at + 8 <= len(data):
            size, found = struct.unpack_from(">I4s", data, at)
            if found == kind:
                data = data[at + 8 : at + size]
                break
            at += max(size, 8)
        else:
            raise ValueError(f"no box {kind!r}")
    return data


def _boxes(file: IO[bytes], at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, begin, end) of each complete box in a file."""
    while at + 8 <= size:
        length, kind = struct.unpack(">I4s", os.pread(file.fileno(), 8, at))
        if length < 8 or at + length > size:
            return
        yield kind, at, at + length
        at += length


def _content(file: IO[bytes], begin: int, end: int) -> bytes:
    return os.pread(file.fileno(), end - begin - 8, begin + 8)


def _units(data: bytes) -> list[bytes]:
    """Return the network abstraction layer units of an image; trailing zeros belong to the next start code."""
    return [unit for part in data.split(b"\0\0\1")[1:] if (unit := part.rstrip(b"\0"))]


def _visual_entry(kind: bytes, size: tuple[int, int], config: bytes) -> bytes:
    fixed = struct.pack(">6xH16xHHIIIH32sHh", 1, *size, 0x480000, 0x480000, 0, 1, b"", 24, -1)
    return _box(kind, fixed, config)


def _descriptor(tag: int, data: bytes) -> bytes:
    """Return a descriptor of ISO/IEC 14496-1, with its length in four bytes of seven bits."""
    length = len(data)
    return bytes((tag, *(0x80 | length >> shift & 0x7F for shift in (21, 14, 7)), length & 0x7F)) + data


def _words(values: Sequence[int]) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I4s", 8 + len(data), kind) + data
