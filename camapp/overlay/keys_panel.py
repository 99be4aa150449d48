"""Draws the list of the window's keys."""

from __future__ import annotations

from functools import lru_cache

from camapp.core.keys import Keys
from camapp.overlay.panel import PanelBuilder
from camapp.overlay.style import SOFT, WHITE, Style
from camapp.overlay.text import Layer


@lru_cache(maxsize=4)
def keys_layer(style: Style, keys: Keys) -> Layer:
    """Return the list, one row a key, as wide as it needs and the frame has room."""
    body = style.body
    names = max(body.width(key) for key, _ in keys) + 2 * style.unit
    room = style.width - 2 * style.margin - 2 * style.pad
    inner = min(room, names + max(body.width(action) for _, action in keys))
    panel = PanelBuilder(inner, style.pad)
    for key, action in keys:
        panel.row(body.cap, style.unit)
        panel.caption(0, key, body, WHITE)
        panel.caption(names, body.fit(action, max(1, inner - names)), body, SOFT)
    return panel.layer()
