"""Shows lines of other colours as white ones to a net that was taught white lines, and that other colours are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from camapp.core.arrays import Floats

# Brightness of ground that is not yellow, and how much full yellow adds to it.
_GROUND, _YELLOW = 0.2, 0.9
# How much full yellow adds to its own brightness beside white lines.
_BOOST = 0.6
# Added to the brightness that yellow is divided by: yellow in dark places is noise.
_DARK = 0.1


def _yellowness(pixels: Floats) -> Floats:
    """Return how yellow each pixel is, 0 to 1; white, grey and other colours are not."""
    red, green, blue = pixels
    share: Floats = np.maximum(np.minimum(red, green) - blue, 0) / (np.maximum(red, green) + _DARK)
    return share


def _yellow(pixels: Floats) -> Floats:
    """Return an image in which only yellow is bright."""
    seen: Floats = np.minimum(_GROUND + _YELLOW * _yellowness(pixels), 1)
    return seen


def _black(pixels: Floats) -> Floats:
    """Return an image in which only black is bright, strong colours are not."""
    seen: Floats = 1 - pixels.max(axis=0)
    return seen


def _yellow_too(pixels: Floats) -> Floats:
    """Return the image with yellow turned white and brighter, and all else as it is."""
    red, green, blue = pixels
    seen: Floats = np.stack([red, green, np.maximum(blue, np.minimum(red, green))])
    seen *= 1 + _BOOST * _yellowness(pixels)
    seen = np.minimum(seen, 1)
    return seen


# Setting -> what is looked for.
WORDS = {"white": "white line", "yellow": "yellow line", "black": "black line", "any": "white or yellow line"}
# Setting -> function from RGB, float32 (3, height, width) from 0 to 1, to what the net sees: of that shape, or (height,
# width). White needs none. Black lines are in no combination: what makes them bright makes most grounds bright too.
WHITE_OF: dict[str, Callable[[Floats], Floats]] = {"yellow": _yellow, "black": _black, "any": _yellow_too}
