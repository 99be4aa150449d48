"""The parameters of a model as its file has them: let go of once a plan has what it needs, read again if need be.

Plans hold parameters folded and rearranged; to keep the originals beside them would take half as much memory again
(ResNet-50: 100 MB), for nothing but the rare plan for inputs of another size, or a conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from engine.graph import Array, Graph, ModelError

SMALL = 16 << 20  # bytes that nobody will miss


class LazyWeights(Mapping[str, Array]):
    """Arrays by name, as long as they are held; from the file again after `release`, if it is still the same file.

    Args:
        arrays: what was read.
        path: of the file.
        again: reads it once more.
    """

    def __init__(self, arrays: Mapping[str, Array], path: Path, again: Callable[[], Mapping[str, Array]]) -> None:
        self._arrays: Mapping[str, Array] | None = arrays
        self._names = tuple(arrays)
        self._path = path
        self._again = again
        self._identity = _identity(path)

    def __getitem__(self, name: str) -> Array:
        return self._held()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def release(self) -> None:
        """Let go of the arrays, if that is worth while."""
        if self._arrays is not None and sum(array.nbytes for array in self._arrays.values()) > SMALL:
            self._arrays = None

    def _held(self) -> Mapping[str, Array]:
        held = self._arrays
        if held is None:
            if _identity(self._path) != self._identity:
                raise ModelError(f"{self._path}: the file has changed since it was loaded; load it again")
            self._arrays = held = self._again()
        return held


def release(graph: Graph) -> None:
    """Let go of a graph's parameters, if they can be read again."""
    if isinstance(graph.initializers, LazyWeights):
        graph.initializers.release()


def own(array: Array) -> Array:
    """The array, or a copy of one that keeps far more in memory than itself, such as the file it was read from."""
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    held = base.obj if isinstance(base, memoryview) else base
    size = held.nbytes if isinstance(held, np.ndarray) else len(held) if isinstance(held, bytes) else 0
    return array.copy() if size > 2 * array.nbytes + SMALL else array


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from one that took its place, or that was written into; () if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
