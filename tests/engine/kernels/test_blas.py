"""Detection of NumPy's BLAS, and its warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.kernels import blas
from engine.kernels.blas import Blas, describe


@pytest.fixture(autouse=True)
def _fresh() -> None:
    describe.cache_clear()


def test_the_blas_of_this_process_is_known() -> None:
    found = describe()
    assert found.library
    if found.library == "openblas":
        assert found.core
        assert found.threads >= 1
        assert found.warning == ""


@pytest.mark.parametrize(
    ("mapped", "library"),
    [(["libblas.so.3.11"], "reference"), (["libblis.so.4"], "blis"), (["libmkl_rt.so.2"], "mkl")],
)
def test_the_library_follows_from_the_mapped_files(
    mapped: list[str], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "mapped_libraries", lambda: [Path("/usr/lib") / name for name in mapped])
    assert describe().library == library


def test_build_settings_are_used_if_nothing_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "mapped_libraries", list)
    monkeypatch.setattr(np, "show_config", lambda mode: {"Build Dependencies": {"blas": {"name": "none"}}})
    assert describe().library == "none"


def test_old_numpy_that_only_prints_its_settings_is_unknown_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_prints() -> None: ...

    monkeypatch.setattr(blas, "mapped_libraries", list)
    monkeypatch.setattr(np, "show_config", only_prints)
    assert describe() == Blas("unknown")


@pytest.mark.parametrize(("core", "small"), [("SkylakeX", True), ("Haswell", False), ("", False)])
def test_small_products_go_by_the_core(core: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "describe", lambda: Blas("openblas", core))
    assert blas.has_small_products() == small


@pytest.mark.parametrize(("library", "words"), [("reference", "reference BLAS"), ("none", "no BLAS")])
def test_slow_blas_is_warned_of_in_one_line(library: str, words: str) -> None:
    warning = Blas(library).warning
    assert words in warning
    assert "install" in warning
    assert "\n" not in warning
