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
        panel.row(title.cap)
        panel.caption(0, title.fit(head, room), title, bright)
        panel.text(inner, score, body, soft, right=True, drop=title.cap - body.cap)
        height = max(3, style.unit // 2)
        panel.row(height, style.unit)
        panel.bar(0, inner, height, content.score / 100, accent)
        for line in body.wrap(reason, inner, MAX_LINES):
            panel.row(body.cap, style.unit)
            panel.caption(0, line, body, soft)
    elif not content.values:
        panel.row(body.cap + style.unit // 2)
        panel.caption(0, "nothing sure", body, soft)

    if content.truth or content.age:
        panel.row(body.cap, style.unit)
    if content.truth:
        colour = GREEN if content.truth == content.label else AMBER
        panel.text(0, body.fit(f"truth {content.truth}", inner), body, colour)
    if content.age:
        panel.text(inner if content.truth else 0, content.age, body, AMBER, right=bool(content.truth))

    if style.detail:
        names = inner * 11 // 20
        numbers = small.width("100 %") + style.unit // 2
        for label, percent in content.top if style.detail > 1 or not content.label else ():
            panel.row(small.cap, style.unit)
            panel.caption(0, small.fit(label, names - style.unit), small, soft)
            height = max(2, style.unit // 3)
            panel.bar(names, inner - numbers, height, percent / 100, soft, small.cap // 2 - height // 2)
            panel.text(inner, f"{percent} %", small, soft, right=True)
        for name, value in content.values:
            panel.row(body.cap, style.unit)
            panel.text(0, body.fit(name.replace("_", " "), inner - body.width(value) - style.unit), body, soft)
            panel.text(inner, value, body, bright, right=True)
    return panel.layer()
