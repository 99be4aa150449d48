"""Detects the BLAS that NumPy uses: library, core and threads; warns of a slow one, refuses a wrong one."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.graph import FLOAT32, ModelError

_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "_64", "")
# The product that NumPy calls, as its builds name it.
_PRODUCTS = ("scipy_cblas_sgemm64_", "cblas_sgemm64_", "cblas_sgemm64", "cblas_sgemm", "sgemm_")
# What a library's path contains, and the library; the last is Debian's reference BLAS.
_NAMES = {"openblas": "openblas", "blis": "blis", "mkl": "mkl", "atlas": "atlas", "blas": "reference"}
# OpenBLAS cores with kernels for small products that read both operands in place (its `small_matrix_permit`).
_SMALL_PRODUCT_CORES = ("skylakex", "cooperlake", "sapphirerapids")
# Largest error of a product by its sum of absolute terms; float32 gives up to 3e-7.
MAX_ERROR = 1e-4


@dataclass(frozen=True)
class Blas:
    """Describes the BLAS of this process.

    Attributes:
        library: 'openblas', 'blis', 'mkl', 'atlas', 'reference' or 'none'; else the name that NumPy reports.
        core: the processor family of its kernels, as the library names it; '' if unknown.
        threads: how many it may use now; 0 if unknown.
        version: of OpenBLAS; '' if unknown.
        path: of its file; '' if unknown.
    """

    library: str
    core: str = ""
    threads: int = 0
    version: str = ""
    path: str = ""

    @property
    def warning(self) -> str:
        """One line for the user if products will be slow; else ''."""
        if self.library not in ("reference", "none"):
            return ""
        return (
            f"NumPy runs on {'the reference BLAS' if self.library == 'reference' else 'no BLAS'}: networks will be "
            "several times slower; install libopenblas0-pthread, or NumPy's own wheel (pip install numpy)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return " ".join(part for part in (self.library, self.version, self.core) if part)


def describe() -> Blas:
    """Return the BLAS that NumPy calls, with its present number of threads; a BLAS that OpenCV brings is another."""
    handle, path = numpys_library()
    if handle is None:
        return Blas(_built_with(), path=path)
    if (core := _function(handle, "get_corename", ctypes.c_char_p)) is None:
        name = next((library for part, library in _NAMES.items() if part in path.rpartition("/lib/")[2]), None)
        return Blas(name or _built_with(), path=path)
    threads = _function(handle, "get_num_threads", ctypes.c_int)
    config = _function(handle, "get_config", ctypes.c_char_p)
    version = config().decode().removeprefix("OpenBLAS").split()[:1] if config else []
    return Blas("openblas", core().decode(), threads() if threads else 0, "".join(version), path)


@cache
def has_small_products() -> bool:
    """Return whether small matrix products skip packing (see `engine.kernels.products`)."""
    return describe().core.lower() in _SMALL_PRODUCT_CORES


@cache
def numpys_library() -> tuple[ctypes.CDLL | None, str]:
    """Return a handle in which NumPy's BLAS is found, and the BLAS's file; (None, "") if NumPy calls none.

    The handle is that of NumPy's extension module: a symbol is looked up in it and in the libraries that it was linked
    with, never in those of other packages.
    """
    modules = (sys.modules.get(f"numpy.{package}._multiarray_umath") for package in ("_core", "core"))
    file = next((module.__file__ for module in modules if module is not None), None)
    if file is None:
        return None, ""
    handle = ctypes.CDLL(file)
    product = next((found for name in _PRODUCTS if (found := getattr(handle, name, None)) is not None), None)
    return (None, "") if product is None else (handle, _file_of(product))


class _Place(ctypes.Structure):
    """Receives what `dladdr` writes: Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file_of(function: Any) -> str:
    """Return the path of the library that holds a C function; "" if the system does not say."""
    place = _Place()
    dladdr = getattr(ctypes.CDLL(None), "dladdr", None)
    if dladdr is None or not dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(place)) or not place.file:
        return ""
    return str(Path(place.file.decode()).resolve())


def _function(handle: ctypes.CDLL, name: str, result: Any) -> Callable[[], Any] | None:
    """Return a function of OpenBLAS without arguments, under whatever name the build gives it."""
    names = (f"{prefix}_{name}{suffix}" for prefix in _PREFIXES for suffix in _SUFFIXES)
    found = next((each for each in (getattr(handle, name, None) for name in names) if each is not None), None)
    if found is not None:
        found.restype = result
    return found


@cache
def check() -> None:
    """Warn, once in a process, if NumPy's BLAS is slow.

    Raises:
        ModelError: it computes wrong.
    """
    if warning := describe().warning:
        warnings.warn(warning, stacklevel=2)
    if (error := product_error()) > MAX_ERROR:
        raise ModelError(wrong_products(error))


def wrong_products(error: float) -> str:
    """Return the line for the user about a BLAS whose products have this error."""
    return (
        f"NumPy's BLAS ({describe()}) computes wrong products (error {error:.2g} of their size): install another "
        "NumPy, or set OPENBLAS_CORETYPE to a core for which it computes right, such as ARMV8 or Haswell"
    )


def product_error(side: int = 40) -> float:
    """Return the largest error of float32 products by the sum of their absolute terms; inf if one is not a number.

    Square, small and flat ones, alone and stacked, are compared with float64 sums without BLAS. With 40 rows that takes
    1 ms, with 384 half a second.
    """
    state = np.random.default_rng(0)
    worst = 0.0
    for rows, inner, columns in ((side, side + 7, side), (5, 7, 3), (1, 200, 90), (90, 200, 1)):
        a, b = (state.standard_normal(shape, FLOAT32) for shape in ((rows, inner), (inner, columns)))
        found = np.stack([np.dot(a, b), *np.matmul(np.stack([a, a]), b)])
        terms = [np.multiply(row[:, None], b, dtype=np.float64) for row in a]
        expected = np.stack([each.sum(axis=0) for each in terms])
        size = np.stack([np.abs(each).sum(axis=0) for each in terms])
        worst = max(worst, float(np.nan_to_num(np.abs(found - expected) / size, nan=np.inf).max()))
    return worst


def _built_with() -> str:
    try:
        found: Any = np.show_config(mode="dicts")  # type: ignore[call-overload,unused-ignore]
    except TypeError:  # NumPy 1.24 only prints
        return "unknown"
    name = str(found.get("Build Dependencies", {}).get("blas", {}).get("name", "unknown")).lower()
    return "none" if name in ("none", "") else name
