"""The panel of figures, and the badges: how the run is doing."""

from __future__ import annotations

from collections.abc import Hashable

from camapp.core.arrays import Pixels
from camapp.core.status import Hud, rating_of
from camapp.overlay.panel import Board, tag
from camapp.overlay.style import (
    AMBER,
    FAINT,
    INK,
    RATING_COLOURS,
    RED,
    SOFT,
    STAGE_COLOURS,
    WHITE,
    Style,
    percent,
    share,
)
from camapp.overlay.text import Layer


def digest(hud: Hud) -> Hashable:
    """The figures rounded as they are shown."""
    return (
        round(hud.camera_fps, 1), round(hud.infer_fps, 1), round(hud.display_fps, 1), hud.target_fps,
        tuple((name, round(value, 1)) for name, value in hud.latency_ms.items()),
        tuple(hud.drops.items()), share(hud.workers_busy), hud.workers, hud.restarts, hud.source, hud.model,
        _health_text(hud), hud.idle,
    )  # fmt: skip


def _health_text(hud: Hud) -> str:
    """Such as '54 C, CPU 63 %': whole figures, which do not change with every sample."""
    temperature, cpu = hud.health.temperature_c, hud.health.cpu
    parts = [f"{temperature:.0f} C"] if temperature is not None else []
    return ", ".join(parts + ([f"CPU {percent(cpu)}"] if cpu is not None else []))


def panel_layer(style: Style, hud: Hud) -> Layer:
    """Rates, latency by stage, drops, workers and health, as far as there is room."""
    judged = hud.target_fps
    rates = (
        ("camera", hud.camera_fps, judged), ("infer", hud.infer_fps, 0 if hud.idle else judged),
        ("display", hud.display_fps, judged),
    )  # fmt: skip
    if style.detail == 0:
        return _rates_strip(style, rates)
    inner = min(style.width - 2 * style.margin - 2 * style.pad, (23 if style.detail > 1 else 20) * style.unit)
    board = Board(inner, style.pad)
    small = style.small
    for column, (name, fps, target) in enumerate(rates):
        x = inner * column * 36 // 100
        board.caption(x, name.upper(), small)
        board.text(x, f"{fps:.1f}", style.figure, RATING_COLOURS[rating_of(fps, target)], drop=round(small.cap * 2))
    board.advance(small.cap * 2 + style.figure.cap + style.unit)
    if hud.target_fps > 0 and style.detail > 1:
        board.caption(0, f"target {hud.target_fps:g} fps", small, FAINT)
        board.advance(small.cap)
    _put_latency(board, inner, style, hud)
    if style.detail == 1:
        dropped = sum(hud.drops.values())
        board.advance(style.unit)
        board.text(0, f"drops {dropped}", small, AMBER if dropped else SOFT)
        board.text(inner, f"{hud.workers} x {percent(hud.workers_busy)}", small, SOFT, right=True)
        board.advance(small.cap)
        return board.layer()
    _put_stages(board, inner, style, hud)
    _put_drops(board, inner, style, hud)
    _put_workers(board, inner, style, hud)
    for text in (_health_text(hud), hud.model, hud.source):
        if text:
            board.advance(style.unit)
            board.caption(0, small.fit(text, inner), small, FAINT)
            board.advance(small.cap)
    return board.layer()


def _put_latency(board: Board, inner: int, style: Style, hud: Hud) -> None:
    """The total, and a bar of the stages' shares in it."""
    body = style.body
    board.advance(style.unit)
    board.caption(0, "latency", body)
    board.text(inner, f"{hud.latency_ms.get('total', 0.0):.1f} ms", body, WHITE, right=True)
    board.advance(body.cap + style.unit // 2 + 2)
    parts = [(max(hud.latency_ms.get(name, 0.0), 0.0), colour) for name, colour in STAGE_COLOURS.items()]
    board.stack(inner, max(3, style.unit // 2), parts)


def _put_stages(board: Board, inner: int, style: Style, hud: Hud) -> None:
    """Each stage's milliseconds, in two columns."""
    small = style.small
    for index, (name, colour) in enumerate(STAGE_COLOURS.items()):
        column = index % 2
        if column == 0:
            board.advance(round(style.unit * 0.9))
        x, width = (0, inner * 47 // 100) if column == 0 else (inner * 53 // 100, inner - inner * 53 // 100)
        board.dot(x, small.cap, colour)
        board.caption(x + round(small.cap * 1.6), name, small)
        board.text(x + width, f"{hud.latency_ms.get(name, 0.0):.1f}", small, WHITE, right=True)
        if column == 1:
            board.advance(small.cap)
    board.advance(small.cap + round(style.unit * 1.4))


def _put_drops(board: Board, inner: int, style: Style, hud: Hud) -> None:
    body, small = style.body, style.small
    board.caption(0, "drops", body)
    board.text(inner, str(sum(hud.drops.values())), body, WHITE, right=True)
    board.advance(body.cap)
    reasons = ", ".join(f"{reason} {count}" for reason, count in hud.drops.items() if count)
    if reasons:
        board.advance(round(style.unit * 0.8))
        board.text(0, small.fit(reasons, inner), small, FAINT)
        board.advance(small.cap)


def _put_workers(board: Board, inner: int, style: Style, hud: Hud) -> None:
    body, small = style.body, style.small
    board.advance(style.unit)
    board.caption(0, f"{hud.workers} worker{'' if hud.workers == 1 else 's'} busy", body)
    board.text(inner, percent(hud.workers_busy), body, WHITE, right=True)
    board.advance(body.cap + style.unit // 2 + 2)
    board.bar(0, inner, max(3, style.unit // 3), hud.workers_busy, SOFT)
    if hud.restarts:
        board.advance(style.unit)
        board.text(0, f"{hud.restarts} restart{'' if hud.restarts == 1 else 's'}", small, AMBER)
        board.advance(small.cap)


def _rates_strip(style: Style, rates: tuple[tuple[str, float, float], ...]) -> Layer:
    """The three rates as bare numbers, for frames where nothing else fits."""
    words = [style.small.layer(f"{fps:.0f}", RATING_COLOURS[rating_of(fps, target)]) for _, fps, target in rates]
    inner = min(sum(word.width for word in words) + 2 * style.unit, style.width - 2 * style.margin)
    board = Board(inner, style.pad // 2)
    x = 0
    for word in words:
        board.put(word, x, -1)
        x += word.width + style.unit
    board.advance(style.small.cap)
    return board.layer()


def draw_badges(canvas: Pixels, style: Style, hud: Hud) -> None:
    """What needs attention now, in the upper right corner."""
    badges = [("PAUSED", AMBER)] if hud.paused else [("IDLE", SOFT)] if hud.idle else []
    badges += [("LOW LIGHT" if hud.slowness.startswith("low light") else "SLOW CAMERA", AMBER)] if hud.slowness else []
    badges += [(alert.upper(), RED) for alert in hud.health.alerts]
    font = style.body if style.detail else style.small
    y = style.margin
    for text, colour in badges:
        badge = tag(text, font, INK, colour)
        badge.lay_on(canvas, max(0, style.width - style.margin - badge.width), y)
        y += badge.height + style.margin // 2
