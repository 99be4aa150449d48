"""Sizes of caches as Linux writes them, and without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.kernels import caches

PI_4 = [("1", "Data", "32K", "0"), ("1", "Instruction", "48K", "0"), ("2", "Unified", "1024K", "0-3")]
PI_5 = [("1", "Data", "64K", "0"), ("2", "Unified", "512K", "0"), ("3", "Unified", "2048K", "0-3")]
XEON = [("1", "Data", "48K", "0,2"), ("2", "Unified", "2048K", "0,2"), ("3", "Unified", "266240K", "0-3")]


def linux(folder: Path, caches: list[tuple[str, ...]], siblings: str = "0") -> Path:
    for number, each in enumerate(caches):
        index = folder / f"cache/index{number}"
        index.mkdir(parents=True)
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), each, strict=True):
            (index / name).write_text(f"{text}\n")
    (folder / "topology").mkdir()
    (folder / "topology/thread_siblings_list").write_text(f"{siblings}\n")
    return folder


@pytest.mark.parametrize(
    ("found", "siblings", "sizes", "group"),
    [
        (PI_4, "0", {1: (32, 32), 2: (1024, 256)}, 256),
        (PI_5, "0", {1: (64, 64), 2: (512, 512), 3: (2048, 512)}, 256),
        (XEON, "0,2", {1: (48, 48), 2: (2048, 2048), 3: (266240, 133120)}, 768),
        ([("2", "Unified", "?", "0"), ("1", "Data", "32K", "0-x")], "0", {}, 768),
    ],
)
def test_a_core_gets_its_part_of_shared_caches(
    found: list[tuple[str, ...]], siblings: str, sizes: dict[int, tuple[int, int]], group: int, tmp_path: Path
) -> None:
    folder = linux(tmp_path, found, siblings)
    assert caches.sizes(folder) == {level: (whole << 10, part << 10) for level, (whole, part) in sizes.items()}
    assert caches.group_bytes(768 << 10, folder) == group << 10
    assert caches.last(folder) == max((whole << 10 for whole, _ in sizes.values()), default=caches.LARGE)


def test_a_system_that_states_no_caches_counts_as_a_large_cpu(tmp_path: Path) -> None:
    assert caches.last(tmp_path / "none") == caches.LARGE
    assert caches.group_bytes(768 << 10, tmp_path / "none") == 768 << 10
