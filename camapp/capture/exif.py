"""Reads the orientation of a picture from its EXIF data, or from the properties of an AVIF or HEIF picture.

OpenCV applies it for some formats, in some versions, with some flags. It is therefore made to ignore it, and the
picture is turned by what is found here. TIFF is an exception: there OpenCV's decoder always applies it.
"""

from __future__ import annotations

import struct

from camapp.capture.orientation import Orientation

UPRIGHT = Orientation()
# Orientation by the value of the EXIF tag: how to turn the stored picture.
_BY_TAG = {
    2: Orientation(hflip=True),
    3: Orientation(rotate=180),
    4: Orientation(vflip=True),
    5: Orientation(vflip=True, rotate=90),
    6: Orientation(rotate=90),
    7: Orientation(hflip=True, rotate=90),
    8: Orientation(rotate=270),
}
_TAG = 0x112
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
# Bytes before which the properties of a HEIF file lie.
_HEIF_HEAD = 65536


def orientation_of(data: bytes) -> Orientation:
    """Return how the picture in a JPEG, PNG, WebP or AVIF file has to be turned; damaged EXIF data turns nothing."""
    try:
        if data[:2] == b"\xff\xd8":
            return _of_exif(_jpeg_exif(data))
        if data[:4] == b"\x89PNG":
            return _of_exif(_png_exif(data))
        if data[:4] == b"RIFF":
            return _of_exif(_webp_exif(data))
        if data[4:8] == b"ftyp":
            return _of_heif(data[:_HEIF_HEAD])
    except (struct.error, IndexError):
        pass
    return UPRIGHT


def _of_exif(exif: bytes) -> Orientation:
    """Return the orientation in EXIF data, which is a TIFF file without a picture."""
    order = _BYTE_ORDERS.get(exif[:4])
    if order is None:
        return UPRIGHT
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
        if tag == _TAG and kind == 3:
            return _BY_TAG.get(value, UPRIGHT)
    return UPRIGHT


def _jpeg_exif(data: bytes) -> bytes:
    at = 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 10 : at + 2 + length]
        at += 2 + length
    return b""


def _png_exif(data: bytes) -> bytes:
    # The chunk may come behind the picture's data, where the same letters may be by chance: walk from chunk to chunk.
    at, end = 8, data.rfind(b"eXIf")
    while at < end:
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return b""


def _webp_exif(data: bytes) -> bytes:
    at, end = 12, data.rfind(b"EXIF")
    while at <= end:
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
        at += 8 + length + length % 2
    return b""


def _of_heif(head: bytes) -> Orientation:
    """Return the orientation by the properties `irot` (quarter turns anticlockwise), then `imir` (an axis)."""
    turns = mirror = None
    if (at := head.find(b"\0\0\0\x09irot")) >= 0:
        turns = head[at + 8] & 3
    if (at := head.find(b"\0\0\0\x09imir")) >= 0:
        mirror = head[at + 8] & 1
    rotate = (360 - 90 * (turns or 0)) % 360
    if mirror is None:
        return Orientation(rotate=rotate)
    # Here the flip comes first: flipped behind a quarter turn is flipped the other way before it.
    across = bool(mirror) != (rotate in (90, 270))
    return Orientation(hflip=across, vflip=not across, rotate=rotate)
