"""Detects the BLAS that NumPy uses: library, core and threads; warns of a slow one."""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "_64", "")
# OpenBLAS cores with kernels for small products that read both operands in place (its `small_matrix_permit`).
_SMALL_PRODUCT_CORES = ("skylakex", "cooperlake", "sapphirerapids")


@dataclass(frozen=True)
class Blas:
    """Describes the BLAS of this process.

    Attributes:
        library: 'openblas', 'blis', 'mkl', 'accelerate', 'reference' or 'none'; else the name that NumPy reports.
        core: the processor family of its kernels, as the library names it; '' if unknown.
        threads: how many it may use; 0 if unknown.
    """

    library: str
    core: str = ""
    threads: int = 0

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


@cache
def describe() -> Blas:
    """Return the BLAS of this process, from the libraries mapped into it, else from NumPy's build settings."""
    for path in mapped_libraries():
        if "openblas" in path.name:
            return _openblas(path)
    for library in ("blis", "mkl_rt", "atlas"):
        if any(library in path.name for path in mapped_libraries()):
            return Blas(library.removesuffix("_rt"))
    if any(path.name.startswith(("libblas.so", "libcblas.so")) for path in mapped_libraries()):
        return Blas("reference")
    return Blas(_built_with())


def has_small_products() -> bool:
    """Return whether small matrix products skip packing (see `engine.kernels.products`)."""
    return describe().core.lower() in _SMALL_PRODUCT_CORES


def mapped_libraries() -> list[Path]:
    """Return the shared libraries mapped into this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []  # not Linux
    fields = (line.split(maxsplit=5) for line in lines)
    return sorted({Path(field[5]).resolve() for field in fields if len(field) == 6 and ".so" in field[5]})


def _openblas(path: Path) -> Blas:
    library = ctypes.CDLL(str(path))  # already loaded: returns the same library
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            name = getattr(library, f"{prefix}_get_corename{suffix}", None)
            threads = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
            if name is not None and threads is not None:
                name.restype = ctypes.c_char_p
                return Blas("openblas", (name() or b"").decode(), int(threads()))
    return Blas("openblas")


def _built_with() -> str:
    try:
        found: Any = np.show_config(mode="dicts")  # type: ignore[call-overload,unused-ignore]
    except TypeError:  # NumPy 1.24 only prints
        return "unknown"
    name = str(found.get("Build Dependencies", {}).get("blas", {}).get("name", "unknown")).lower()
    return "none" if name in ("none", "") else name
