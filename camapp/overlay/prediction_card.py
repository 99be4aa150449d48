"""Draws the card with the model's prediction."""

from __future__ import annotations

from dataclasses import dataclass

from camapp.core.predictions import Prediction
from camapp.overlay.panel import PanelBuilder
from camapp.overlay.style import ACCENT, AMBER, DIM, FAINT, GREEN, SOFT, WHITE, Style, share
from camapp.overlay.text import Layer

# Lines of a reason.
MAX_LINES = 4


@dataclass(frozen=True, slots=True)
class CardContent:
    """The content of a card, rounded as it is drawn: an equal content needs no redrawing."""

    label: str
    score: int
    top: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, str], ...]
    truth: str
    age: str

    @classmethod
    def of(cls, prediction: Prediction, truth: str, age: str) -> CardContent:
        """Return the content for a prediction; `truth` and `age` are texts, "" for none."""
        return cls(
            prediction.label,
            share(prediction.score),
            tuple((label, share(score)) for label, score in prediction.top[:3]),
            tuple((name, f"{value:.3g}") for name, value in list(prediction.values.items())[:6]),
            truth,
            age,
        )


def card_layer(style: Style, content: CardContent) -> Layer:
    """Return the card: label, score bar, the three best labels, values."""
    dimmed = bool(content.age)
    bright, soft = (SOFT, FAINT) if dimmed else (WHITE, SOFT)
    accent = DIM if dimmed else ACCENT
    title, body, small = style.title, style.body, style.small
    inner = min(style.width - 2 * style.margin, (16, 24, 30)[style.detail] * style.unit) - 2 * style.pad
    panel = PanelBuilder(inner, style.pad)

    score = f"{content.score} %" if content.label else ""
    room = inner - (body.width(score) + style.unit if score else 0)
    # Such as "no lane: the image is black".
    head, _, reason = content.label.partition(": ")
    if content.label:
        panel.caption(0, title.fit(head, room), title, bright)
        panel.text(inner, score, body, soft, right=True, drop=title.cap - body.cap)
        panel.advance(title.cap + style.unit)
        panel.bar(0, inner, max(3, style.unit // 2), content.score / 100, accent)
        for line in body.wrap(reason, inner, MAX_LINES):
            panel.advance(style.unit)
            panel.caption(0, line, body, soft)
            panel.advance(body.cap)
    elif not content.values:
        panel.caption(0, "nothing sure", body, soft)
        panel.advance(body.cap + style.unit // 2)

    note = content.age
    if content.truth:
        right = content.truth == content.label
        panel.advance(style.unit)
        panel.text(0, body.fit(f"truth {content.truth}", inner), body, GREEN if right else AMBER)
        if note:
            panel.text(inner, note, body, AMBER, right=True)
        panel.advance(body.cap)
    elif note:
        panel.advance(style.unit)
        panel.text(0, note, body, AMBER)
        panel.advance(body.cap)

    if style.detail:
        names = inner * 11 // 20
        numbers = small.width("100 %") + style.unit // 2
        for label, percent in content.top if style.detail > 1 or not content.label else ():
            panel.advance(style.unit)
            panel.caption(0, small.fit(label, names - style.unit), small, soft)
            height = max(2, style.unit // 3)
            panel.bar(names, inner - numbers, height, percent / 100, soft, drop=small.cap // 2, flow=False)
            panel.text(inner, f"{percent} %", small, soft, right=True)
            panel.advance(small.cap)
        for name, value in content.values:
            panel.advance(style.unit)
            panel.text(0, body.fit(name.replace("_", " "), inner - body.width(value) - style.unit), body, soft)
            panel.text(inner, value, body, bright, right=True)
            panel.advance(body.cap)
    return panel.layer()
