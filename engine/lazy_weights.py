"""Loads weights lazily: they are released after planning and reloaded from the file on demand.

Plans hold parameters folded and rearranged. Keeping the originals too would take half as much memory again (ResNet-50:
100 MB), only for the rare plan for inputs of another size, or a conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from engine.graph import Array, Graph, ModelError

SMALL = 16 << 20  # bytes; smaller models stay in memory


class LazyWeights(Mapping[str, Array]):
    """Maps names to arrays; after `release` the next access reads them from the file again, if it is unchanged."""

    def __init__(self, arrays: Mapping[str, Array], path: Path, reload: Callable[[], Mapping[str, Array]]) -> None:
        self._arrays: Mapping[str, Array] | None = arrays
        self._names = tuple(arrays)
        self._path = path
        self._reload = reload
        self._identity = _identity(path)

    def __getitem__(self, name: str) -> Array:
        return self._held()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def release(self) -> None:
        """Release the arrays, if they take more than SMALL bytes."""
        if self._arrays is not None and sum(array.nbytes for array in self._arrays.values()) > SMALL:
            self._arrays = None

    def _held(self) -> Mapping[str, Array]:
        held = self._arrays
        if held is None:
            if _identity(self._path) != self._identity:
                raise ModelError(f"{self._path}: the file has changed since it was loaded; load it again")
            self._arrays = held = self._reload()
        return held


def release(graph: Graph) -> None:
    """Release a graph's parameters, if they can be reloaded."""
    if isinstance(graph.initializers, LazyWeights):
        graph.initializers.release()


def own(array: Array) -> Array:
    """Return the array, or a copy if it is a view that keeps a much larger object (a whole file) in memory."""
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    held = base.obj if isinstance(base, memoryview) else base
    size = held.nbytes if isinstance(held, np.ndarray) else len(held) if isinstance(held, bytes) else 0
    return array.copy() if size > 2 * array.nbytes + SMALL else array


def _identity(path: Path) -> tuple[int, ...]:
    """Return a value that changes if the file is replaced or written to; () if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
