"""Draws the statistics of a run: a panel of numbers, and badges."""

from __future__ import annotations

from collections.abc import Hashable

from camapp.core.arrays import Pixels
from camapp.core.status import Hud, rating_of
from camapp.overlay.panel import PanelBuilder, tag
from camapp.overlay.style import (
    AMBER,
    DARK,
    FAINT,
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
    """Return the numbers rounded as they are drawn, to detect a change."""
    return (
        round(hud.camera_fps, 1), round(hud.infer_fps, 1), round(hud.display_fps, 1), hud.target_fps,
        tuple((name, round(value, 1)) for name, value in hud.latency_ms.items()),
        tuple(hud.drops.items()), share(hud.workers_busy), hud.workers, hud.restarts, hud.source, hud.model,
        _health_text(hud), hud.idle, hud.ended,
    )  # fmt: skip


def _health_text(hud: Hud) -> str:
    """Return a text such as '54 C, CPU 63 %': whole numbers, which do not change with every sample."""
    temperature, cpu = hud.health.temperature_c, hud.health.cpu
    parts = [f"{temperature:.0f} C"] if temperature is not None else []
    return ", ".join(parts + ([f"CPU {percent(cpu)}"] if cpu is not None else []))


def panel_layer(style: Style, hud: Hud) -> Layer:
    """Return the panel: rates, latency by stage, drops, workers and health, as far as there is room."""
    # Rates that fall on purpose are no alarm.
    target = 0 if hud.paused or hud.ended else hud.target_fps
    rates = (
        ("camera", hud.camera_fps, target), ("infer", hud.infer_fps, 0 if hud.idle else target),
        ("display", hud.display_fps, target),
    )  # fmt: skip
    if style.detail == 0:
        return _rates_strip(style, rates)
    inner = min(style.width - 2 * style.margin - 2 * style.pad, (23 if style.detail > 1 else 20) * style.unit)
    panel = PanelBuilder(inner, style.pad)
    small = style.small
    panel.row(small.cap * 2 + style.figure.cap)
    for column, (name, fps, target) in enumerate(rates):
        x = inner * column * 36 // 100
        panel.caption(x, name.upper(), small)
        panel.text(x, f"{fps:.1f}", style.figure, RATING_COLOURS[rating_of(fps, target)], drop=round(small.cap * 2))
    has_target = hud.target_fps > 0 and style.detail > 1
    panel.row(small.cap if has_target else 0, style.unit)
    if has_target:
        panel.caption(0, f"target {hud.target_fps:g} fps", small, FAINT)
    _put_latency(panel, inner, style, hud)
    if style.detail == 1:
        dropped = sum(hud.drops.values())
        panel.row(small.cap, style.unit)
        panel.text(0, f"drops {dropped}", small, AMBER if dropped else SOFT)
        if hud.workers:
            panel.text(inner, f"{hud.workers} x {percent(hud.workers_busy)}", small, SOFT, right=True)
        return panel.layer()
    _put_stages(panel, inner, style, hud)
    _put_drops(panel, inner, style, hud)
    if hud.workers:
        _put_workers(panel, inner, style, hud)
    for text in (_health_text(hud), hud.model, hud.source):
        if text:
            panel.row(small.cap, style.unit)
            panel.caption(0, small.fit(text, inner), small, FAINT)
    return panel.layer()


def _put_latency(panel: PanelBuilder, inner: int, style: Style, hud: Hud) -> None:
    """Add the total latency, and a bar of the stages' shares in it."""
    body = style.body
    panel.row(body.cap, style.unit)
    panel.caption(0, "latency", body)
    panel.text(inner, f"{hud.latency_ms.get('total', 0.0):.1f} ms", body, WHITE, right=True)
    parts = [(max(hud.latency_ms.get(name, 0.0), 0.0), colour) for name, colour in STAGE_COLOURS.items()]
    height = max(3, style.unit // 2)
    panel.row(height, style.unit // 2 + 2)
    panel.stack(inner, height, parts)


def _put_stages(panel: PanelBuilder, inner: int, style: Style, hud: Hud) -> None:
    """Add the milliseconds of each stage, in two columns."""
    small = style.small
    for index, (name, colour) in enumerate(STAGE_COLOURS.items()):
        column = index % 2
        if column == 0:
            panel.row(small.cap, round(style.unit * 0.9))
        x, width = (0, inner * 47 // 100) if column == 0 else (inner * 53 // 100, inner - inner * 53 // 100)
        panel.dot(x, small.cap, colour)
        panel.caption(x + round(small.cap * 1.6), name, small)
        panel.text(x + width, f"{hud.latency_ms.get(name, 0.0):.1f}", small, WHITE, right=True)


def _put_drops(panel: PanelBuilder, inner: int, style: Style, hud: Hud) -> None:
    body, small = style.body, style.small
    panel.row(body.cap, round(style.unit * 1.4))
    panel.caption(0, "drops", body)
    panel.text(inner, str(sum(hud.drops.values())), body, WHITE, right=True)
    reasons = ", ".join(f"{reason} {count}" for reason, count in hud.drops.items() if count)
    if reasons:
        panel.row(small.cap, round(style.unit * 0.8))
        panel.text(0, small.fit(reasons, inner), small, FAINT)


def _put_workers(panel: PanelBuilder, inner: int, style: Style, hud: Hud) -> None:
    body, small = style.body, style.small
    panel.row(body.cap, style.unit)
    panel.caption(0, f"{hud.workers} worker{'' if hud.workers == 1 else 's'} busy", body)
    panel.text(inner, percent(hud.workers_busy), body, WHITE, right=True)
    height = max(3, style.unit // 3)
    panel.row(height, style.unit // 2 + 2)
    panel.bar(0, inner, height, hud.workers_busy, SOFT)
    if hud.restarts:
        panel.row(small.cap, style.unit)
        panel.text(0, f"{hud.restarts} restart{'' if hud.restarts == 1 else 's'}", small, AMBER)


def _rates_strip(style: Style, rates: tuple[tuple[str, float, float], ...]) -> Layer:
    """Return the three rates as bare numbers, for frames with room for nothing else."""
    texts = [style.small.layer(f"{fps:.0f}", RATING_COLOURS[rating_of(fps, target)]) for _, fps, target in rates]
    inner = min(sum(text.width for text in texts) + 2 * style.unit, style.width - 2 * style.margin)
    panel = PanelBuilder(inner, style.pad // 2)
    panel.row(style.small.cap)
    x = 0
    for text in texts:
        panel.put(text, x, -1)
        x += text.width + style.unit
    return panel.layer()


def draw_badges(canvas: Pixels, style: Style, hud: Hud, top: int = 0) -> None:
    """Draw what needs attention now, in the upper right corner below `top`."""
    states = (("PAUSED", AMBER, hud.paused), ("END", SOFT, hud.ended), ("IDLE", SOFT, hud.idle))
    badges = [(text, colour) for text, colour, holds in states if holds][:1]
    badges += [("LOW LIGHT" if hud.slowness.startswith("low light") else "SLOW CAMERA", AMBER)] if hud.slowness else []
    badges += [(alert.upper(), RED) for alert in hud.health.alerts]
    font = style.body if style.detail else style.small
    y = top + style.margin
    for text, colour in badges:
        badge = tag(text, font, DARK, colour)
        badge.lay_on(canvas, max(0, style.width - style.margin - badge.width), y)
        y += badge.height + style.margin // 2
