"""The card: what the model says."""

from __future__ import annotations

from dataclasses import dataclass

from camapp.core.predictions import Prediction
from camapp.overlay.panel import Board
from camapp.overlay.style import ACCENT, AMBER, DIM, FAINT, GREEN, SOFT, WHITE, Style, share
from camapp.overlay.text import Layer

MAX_LINES = 4  # of a reason


@dataclass(frozen=True, slots=True)
class Shown:
    """What a card says, rounded as it is shown: equal means that nothing needs to be drawn again."""

    label: str
    score: int
    top: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, str], ...]
    truth: str
    age: str

    @classmethod
    def of(cls, prediction: Prediction, truth: str, age: str) -> Shown:
        """Of a prediction; `truth` and `age` as words, "" for none."""
        return cls(
            prediction.label,
            share(prediction.score),
            tuple((label, share(score)) for label, score in prediction.top[:3]),
            tuple((name, f"{value:.3g}") for name, value in list(prediction.values.items())[:6]),
            truth,
            age,
        )


def card_layer(style: Style, shown: Shown) -> Layer:
    """Label, score bar, the three best, values."""
    fade = bool(shown.age)
    ink, soft = (SOFT, FAINT) if fade else (WHITE, SOFT)
    accent = DIM if fade else ACCENT
    title, body, small = style.title, style.body, style.small
    inner = min(style.width - 2 * style.margin, (16, 24, 30)[style.detail] * style.unit) - 2 * style.pad
    board = Board(inner, style.pad)

    score = f"{shown.score} %" if shown.label else ""
    room = inner - (body.width(score) + style.unit if score else 0)
    head, _, reason = shown.label.partition(": ")  # such as "no lane: the image is black"
    if shown.label:
        board.caption(0, title.fit(head, room), title, ink)
        board.text(inner, score, body, soft, right=True, drop=title.cap - body.cap)
        board.advance(title.cap + style.unit)
        board.bar(0, inner, max(3, style.unit // 2), shown.score / 100, accent)
        for line in body.wrap(reason, inner, MAX_LINES):
            board.advance(style.unit)
            board.caption(0, line, body, soft)
            board.advance(body.cap)
    elif not shown.values:
        board.caption(0, "nothing sure", body, soft)
        board.advance(body.cap + style.unit // 2)

    note = shown.age
    if shown.truth:
        right = shown.truth == shown.label
        board.advance(style.unit)
        board.text(0, body.fit(f"truth {shown.truth}", inner), body, GREEN if right else AMBER)
        if note:
            board.text(inner, note, body, AMBER, right=True)
        board.advance(body.cap)
    elif note:
        board.advance(style.unit)
        board.text(0, note, body, AMBER)
        board.advance(body.cap)

    if style.detail:
        names = inner * 11 // 20
        figures = small.width("100 %") + style.unit // 2
        for label, score_percent in shown.top if style.detail > 1 or not shown.label else ():
            board.advance(style.unit)
            board.caption(0, small.fit(label, names - style.unit), small, soft)
            board.bar(
                names,
                inner - figures,
                max(2, style.unit // 3),
                score_percent / 100,
                soft,
                drop=small.cap // 2,
                flow=False,
            )
            board.text(inner, f"{score_percent} %", small, soft, right=True)
            board.advance(small.cap)
        for name, value in shown.values:
            board.advance(style.unit)
            board.text(0, body.fit(name.replace("_", " "), inner - body.width(value) - style.unit), body, soft)
            board.text(inner, value, body, ink, right=True)
            board.advance(body.cap)
    return board.layer()
