"""Draws the card with the model's prediction."""

from __future__ import annotations

from dataclasses import dataclass

from camapp.core.predictions import Prediction
from camapp.overlay.class_colours import class_colour
from camapp.overlay.panel import PanelBuilder
from camapp.overlay.style import ACCENT, AMBER, DIM, FAINT, GREEN, SOFT, WHITE, Style, share
from camapp.overlay.text import Layer

# Lines of a reason, and of classes that are counted.
MAX_LINES, MAX_CLASSES = 4, 6
_OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class CardContent:
    """The content of a card, rounded as it is drawn: an equal content needs no redrawing."""

    label: str
    hint: str
    score: int
    top: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, str], ...]
    truth: str
    age: str
    counts: tuple[tuple[str, int], ...] | None

    @classmethod
    def of(cls, prediction: Prediction, truth: str, age: str, knows: str = "") -> CardContent:
        """Return the content for a prediction; `truth`, `age` and what the model `knows` are texts, "" for none."""
        return cls(
            prediction.label,
            _hint(prediction, knows),
            share(prediction.score),
            tuple((label, share(score)) for label, score in prediction.top[:3]),
            tuple((name, f"{value:.3g}") for name, value in list(prediction.values.items())[:6]),
            truth,
            age,
            _ranked(prediction) if prediction.counts or prediction.task == "detect" else None,
        )


def _hint(prediction: Prediction, knows: str) -> str:
    """Return why there is no label, and what there might be."""
    if prediction.label or (prediction.values and not prediction.hint):
        return ""
    hint = prediction.hint or "nothing sure"
    return f"{hint}; it knows {knows}" if knows and prediction.task == "classify" else hint


def _ranked(prediction: Prediction) -> tuple[tuple[str, int], ...]:
    """Return the counted classes, the most frequent first; those without a line of their own are one."""
    ranked = sorted(prediction.counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) > MAX_CLASSES:
        ranked[MAX_CLASSES - 1 :] = [(_OTHERS, sum(count for _, count in ranked[MAX_CLASSES - 1 :]))]
    return tuple(ranked)


def card_layer(style: Style, content: CardContent) -> Layer:
    """Return the card: label, score bar, the three best labels, values; or the number of objects by class."""
    if content.counts is not None:
        return _counts_layer(style, content.counts, content.age)
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
    elif content.hint:
        for line in body.wrap(content.hint, inner, MAX_LINES):
            panel.row(body.cap + style.unit // 2)
            panel.caption(0, line, body, soft)

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


def _counts_layer(style: Style, counts: tuple[tuple[str, int], ...], age: str) -> Layer:
    body = style.body
    rows = counts[: (2, 4, MAX_CLASSES)[style.detail]]
    key = round(body.cap * 1.6)
    widest = max([body.width(f"{label} {count}") + key for label, count in rows] + [body.width("nothing in sight")])
    inner = min(style.width - 2 * style.margin - 2 * style.pad, widest + style.unit, 24 * style.unit)
    panel = PanelBuilder(inner, style.pad)
    if not rows:
        panel.row(body.cap)
        panel.caption(0, body.fit("nothing in sight", inner), body, FAINT if age else SOFT)
    for label, count in rows:
        panel.row(body.cap, style.unit // 2 + 2)
        panel.dot(0, body.cap, DIM if age or label == _OTHERS else class_colour(label))
        panel.text(key, body.fit(label, inner - key - body.width(f" {count}")), body, SOFT)
        panel.text(inner, str(count), body, FAINT if age else WHITE, right=True)
    if age:
        panel.row(body.cap, style.unit)
        panel.text(0, age, body, AMBER)
    return panel.layer()
