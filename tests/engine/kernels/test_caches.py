"""Sizes of caches as Linux writes them, and without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.kernels import caches


def write(folder: Path, index: int, level: str, kind: str, size: str) -> None:
    each = folder / f"index{index}"
    each.mkdir()
    for name, text in (("level", level), ("type", kind), ("size", size)):
        (each / name).write_text(f"{text}\n")


def test_sizes_by_level_without_instructions(tmp_path: Path) -> None:
    for index, each in enumerate([("1", "Data", "32K"), ("1", "Instruction", "48K"), ("2", "Unified", "1024K")]):
        write(tmp_path, index, *each)
    write(tmp_path, 3, "3", "Unified", "?")
    (tmp_path / "index4").mkdir()
    assert caches.sizes(tmp_path) == {1: 32 << 10, 2: 1 << 20}


def test_unknown_sizes_are_those_of_a_large_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = caches.sizes(tmp_path)
    monkeypatch.setattr(caches, "sizes", lambda: found)
    assert (caches.second(), caches.last()) == (caches.SECOND, caches.LAST)
