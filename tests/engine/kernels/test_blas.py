"""Detection of NumPy's BLAS, and what it warns of and refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from engine.graph import ModelError
from engine.kernels import blas
from engine.kernels.blas import Blas, describe
from engine.model import Model, ModelCard
from engine.nets.layers import NetBuilder


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    caches = blas.numpys_library, blas.has_small_products, blas.check
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


def test_the_blas_of_this_process_is_known() -> None:
    found = describe()
    assert found.library
    if found.library == "openblas":
        assert found.core
        assert found.threads >= 1
        assert found.version[0].isdigit()
        assert found.warning == ""
        assert found.version in str(found)
        assert found.core in str(found)


def test_it_is_numpys_own_although_another_package_brings_one_too() -> None:
    code = "import cv2; from engine.kernels import blas; print(blas.describe().path)"
    path = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    loaded = [each["filepath"] for each in threadpool_info() if each["user_api"] == "blas"]
    own = next((each for each in loaded if "numpy" in Path(each).parent.name), None)
    if own is None:
        pytest.skip("this NumPy brings no BLAS")
    assert path == str(Path(own).resolve())


def test_threads_are_those_of_now() -> None:
    if describe().library != "openblas":
        pytest.skip("not OpenBLAS")
    with threadpool_limits(3, user_api="blas"):
        assert describe().threads == 3
    with threadpool_limits(1, user_api="blas"):
        assert describe().threads == 1


@pytest.mark.parametrize(
    ("path", "library"),
    [
        ("/usr/lib/aarch64-linux-gnu/blas/libblas.so.3.11.0", "reference"),
        ("/usr/lib/aarch64-linux-gnu/blis-pthread/libblas.so.4.0.0", "blis"),
        ("/usr/lib/libmkl_rt.so.2", "mkl"),
        ("/usr/lib/atlas/libblas.so.3", "atlas"),
    ],
)
def test_a_library_without_openblas_functions_goes_by_its_path(
    path: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "numpys_library", lambda: (SimpleNamespace(), path))
    assert describe().library == library


def test_build_settings_are_used_if_no_library_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "numpys_library", lambda: (None, ""))
    monkeypatch.setattr(np, "show_config", lambda mode: {"Build Dependencies": {"blas": {"name": "none"}}})
    assert describe().library == "none"


def test_old_numpy_that_only_prints_its_settings_is_unknown_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_prints() -> None: ...

    monkeypatch.setattr(blas, "numpys_library", lambda: (None, ""))
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


def test_a_plan_warns_of_a_slow_blas_once(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(blas, "describe", lambda: Blas("reference"))
    for _ in range(2):
        small_net().plan()
    assert sum("reference BLAS" in str(each.message) for each in recwarn) == 1


def test_products_of_this_blas_are_right() -> None:
    assert blas.product_error() < 1e-5


@pytest.mark.parametrize("wrong", [40.0, np.nan])
@pytest.mark.parametrize("function", ["dot", "matmul"])
def test_a_blas_that_computes_wrong_is_refused_by_a_plan(
    function: str, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(np, function)

    def off(*arguments: Any) -> Any:
        found = right(*arguments)
        found[..., -1] += wrong
        return found

    monkeypatch.setattr(np, function, off)
    with pytest.raises(ModelError, match="computes wrong products"):
        small_net().plan()


def small_net() -> Model:
    net = NetBuilder("small", (8,))
    graph = net.graph(net.linear(net.input, "fc", 8, 4), (4,))
    graph = graph.bind({key: np.ones(shape, np.float32) for key, shape in graph.parameters.items()})
    return Model(ModelCard("small", "other", (8,), colour=""), graph)
