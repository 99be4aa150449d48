"""Gives each class a colour that is the same in every image, run and on the web page."""

from __future__ import annotations

from functools import lru_cache

from camapp.overlay.text import Colour

# Light enough for dark text on them, and apart from each other; page.js has the same list.
PALETTE = (
    *("4ec4e6", "ff9f43", "7bd672", "ff6b8b", "b694ff", "ffe14d", "35d6a8", "ff8ad8", "6fa8ff", "c5e063"),
    *("ffb59e", "9be8ff", "e0a3ff", "d9b36c", "59f08c", "ff7846", "a9b8ff", "f7a8c8", "d4d46a", "63dede"),
)
# With these, twelve classes that are often seen together (person, car, dog, face, ...) have twelve colours.
_FACTOR, _MODULUS = 3013, 65521


def colour_index(label: str) -> int:
    """Return the index of a class in the palette; page.js computes the same."""
    value = 0
    for char in label:
        value = (value * _FACTOR + ord(char)) % _MODULUS
    return value % len(PALETTE)


@lru_cache(maxsize=1024)
def class_colour(label: str) -> Colour:
    """Return the colour of a class, BGR."""
    red, green, blue = bytes.fromhex(PALETTE[colour_index(label)])
    return blue, green, red
