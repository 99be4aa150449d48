"""Which BLAS NumPy multiplies with: library, core, threads; and a warning where it has none worth the name."""

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
    """What is known of the BLAS in this process.

    Attributes:
        library: 'openblas', 'blis', 'mkl', 'accelerate', 'reference' or 'none'; what NumPy names, where it is another.
        core: the processor family whose kernels run, as the library calls it; '' where it does not say.
        threads: that it may use; 0 where it does not say.
    """

    library: str
    core: str = ""
    threads: int = 0

    @property
    def warning(self) -> str:
        """One line for the user if products will crawl; '' if all is well."""
        if self.library not in ("reference", "none"):
            return ""
        return (
            f"NumPy runs on {'the reference BLAS' if self.library == 'reference' else 'no BLAS'}: networks will be "
            "several times slower; install libopenblas0-pthread, or NumPy's own wheel (pip install numpy)"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@cache
def describe() -> Blas:
    """The BLAS of this process. The libraries mapped into it tell more than NumPy's build settings do."""
    for path in _mapped():
        if "openblas" in path.name:
            return _openblas(path)
    for library in ("blis", "mkl_rt", "atlas"):
        if any(library in path.name for path in _mapped()):
            return Blas(library.removesuffix("_rt"))
    if any(path.name.startswith(("libblas.so", "libcblas.so")) for path in _mapped()):
        return Blas("reference")
    return Blas(_built_with())


def has_small_products() -> bool:
    """Whether small matrix products skip packing (see `engine.kernels.products`)."""
    return describe().core.lower() in _SMALL_PRODUCT_CORES


def _mapped() -> list[Path]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []  # no Linux: nothing to read there
    fields = (line.split(maxsplit=5) for line in lines)
    return sorted({Path(field[5]).resolve() for field in fields if len(field) == 6 and ".so" in field[5]})


def _openblas(path: Path) -> Blas:
    library = ctypes.CDLL(str(path))  # it is loaded already; this only finds it again
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
