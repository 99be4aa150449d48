"""Names the keys of the window, for its own list, for the page and for --help."""

from __future__ import annotations

Keys = tuple[tuple[str, str], ...]

_COMMON: Keys = (
    ("p", "pause, or go on"),
    ("h", "statistics on or off"),
    ("f", "full screen"),
    ("?", "this list"),
    ("q, Esc", "end"),
)
RUN: Keys = (("s", "save a snapshot"), ("space", "pause; then the next picture"), *_COMMON)
COLLECT: Keys = (("space", "save an image"), ("1 to 9", "choose the label"), *_COMMON)


def sentence(keys: Keys) -> str:
    """Return the keys for a help text."""
    return f"Keys in the window: {'; '.join(f'{key}: {action}' for key, action in keys)}."
