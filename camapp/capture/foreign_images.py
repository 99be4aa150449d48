"""Decodes pictures that OpenCV cannot, by Pillow where it is installed, and names the others with what to install."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from typing import Any

import numpy as np

from camapp.core.image import Image, as_image

# What Pillow may decode to, and the order of the channels that OpenCV has.
_CHANNELS = {"RGB": [2, 1, 0], "RGBA": [2, 1, 0, 3]}
_MAX_PIXELS = 1 << 28
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"heif", b"mif1", b"msf1")
# (what it is, what to install, the module that this brings)
_KINDS = {
    "GIF": ("a GIF picture", "pillow", "PIL"),
    "AVIF": ("an AVIF picture", "'pillow>=11.3'", "PIL"),
    "HEIC": ("a HEIC picture", "pillow-heif", "pillow_heif"),
    "JPEG XL": ("a JPEG XL picture", "pillow-jxl-plugin", "pillow_jxl"),
    "JPEG 2000": ("a JPEG 2000 picture", "pillow", "PIL"),
}


def decode_foreign(data: bytes) -> Image:
    """Decode what OpenCV does not know.

    Raises:
        ValueError: nothing here can; the message says what would.
    """
    kind = _kind_of(data)
    if not kind:
        raise ValueError("it is damaged, or not an image")
    what, package, module = _KINDS[kind]
    # Registers its format with Pillow.
    with contextlib.suppress(ImportError):
        plugin = importlib.import_module(module)
        if kind == "HEIC":
            plugin.register_heif_opener()
    try:
        return _by_pillow(data)
    except (ImportError, LookupError) as error:
        raise ValueError(f"it is {what}, which this OpenCV cannot read: pip install {package}") from error
    # Of damaged files, Pillow's plugins raise what their libraries do.
    except Exception as error:
        raise ValueError(f"it is {what}, and damaged: {error}") from error


def _by_pillow(data: bytes) -> Image:
    """Decode by Pillow, turned upright. Raises LookupError if it does not know the format."""
    pillow: Any = importlib.import_module("PIL.Image")
    operations: Any = importlib.import_module("PIL.ImageOps")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = pillow.open(io.BytesIO(data))
        except pillow.UnidentifiedImageError as error:
            raise LookupError from error
        if picture.width * picture.height > _MAX_PIXELS:
            raise ValueError("it has more pixels than allowed")
        picture = operations.exif_transpose(picture)
        mode = "RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB"
        pixels = np.asarray(picture.convert(mode))
    return as_image(np.ascontiguousarray(pixels[..., _CHANNELS[mode]]))


def _kind_of(data: bytes) -> str:
    if data[:4] == b"GIF8":
        return "GIF"
    if data[4:8] == b"ftyp":
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(64, int.from_bytes(data[:4], "big")), 4))]
        if any(brand in _AVIF for brand in brands):
            return "AVIF"
        return "HEIC" if any(brand in _HEIF for brand in brands) else ""
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    return "JPEG 2000" if data.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")) else ""
