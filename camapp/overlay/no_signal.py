"""Draws the notice that is shown while the source gives no images."""

from __future__ import annotations

import numpy as np

from camapp.core.arrays import Pixels
from camapp.overlay.style import AMBER, DARK, FAINT, WHITE, style_of
from camapp.overlay.text import Font, plain


def no_signal(size: tuple[int, int], reason: str, waited_s: float | None = None) -> Pixels:
    """Return an image (height, width, 3), uint8 BGR, of NO SIGNAL, the reason and, if given, the seconds waited."""
    width, height = size
    style = style_of(width, height)
    image = np.full((height, width, 3), DARK, np.uint8)
    title, body = style.title, Font(round(style.unit * (1.0, 1.1, 1.3)[style.detail]))
    heading = title.fit("NO SIGNAL", width - 2 * style.margin)
    rows = [(heading, title, AMBER)]
    rows += [(line, body, WHITE) for line in body.wrap(plain(reason), width - 6 * style.margin, 4)]
    if waited_s is not None:
        rows.append((body.fit(f"for {waited_s:.0f} s", width), body, FAINT))
    y = (height - sum(font.cap * 2 for _, font, _ in rows)) // 2
    for text, font, colour in rows:
        layer = font.layer(text, colour)
        layer.lay_on(image, (width - layer.width) // 2, y)
        y += font.cap * 2
    return image
