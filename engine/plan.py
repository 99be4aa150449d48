"""Runs a net that was prepared for fixed input shapes: a thin loop over prepared calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from engine.graph import Array, Shape
from engine.kernels.step import Call

# Elements in NumPy's ufunc buffers (default 8192). Although nothing is cast, a ufunc copies operands that broadcast, or
# lie in a frame, into its buffers if these hold more than one row: half of the time of a pass over 20 rows of 1280.
# In a model of a Pi's caches 512 and 2048 are the same.
BUFFER = 1024

Described = tuple[Shape, np.dtype[Any]]
Binder = Callable[[Sequence[Array], Sequence[Array]], list[tuple[str, list[Call]]]]


class Plan:
    """Runs one net on inputs of one shape. Made by `Model.plan`; not for several threads at once.

    Attributes:
        inputs: the plan's own input arrays, of the data types of the graph's (uint8 if it was planned for pixels);
            `run` without arguments reads them.
        outputs: the plan's own output arrays, overwritten by each run.
        arena_bytes: memory for everything between inputs and outputs.
        sections: (name of the node, its calls) in the order of a run; 'copy of ...' between nodes.
        calls: all calls of a run, in order.
        large: the calls run with `small_buffers`; switching takes 3 us, too much for a small net.
    """

    def __init__(
        self,
        binder: Binder,
        inputs: Sequence[Described],
        outputs: Sequence[Described],
        arena_bytes: int,
        pixels: bool = False,
        large: bool = False,
    ) -> None:
        """Bind the calls to new arrays; with `pixels` the first input (N, C, H, W) becomes uint8 (N, H, W, C)."""
        self._binder = binder
        self.large = large
        own = [np.zeros(shape, dtype) for shape, dtype in inputs]
        if pixels:
            count, channels, *sides = inputs[0][0]
            own[0] = np.zeros((count, *sides, channels), np.uint8)
        self.inputs = tuple(own)
        self.outputs = tuple(np.zeros(shape, dtype) for shape, dtype in outputs)
        self.arena_bytes = arena_bytes
        self.sections = binder(self.inputs, self.outputs)
        self.calls = _flat(self.sections)
        self._stores = [array.__setitem__ for array in self.inputs]
        # Cached for nets with one input: a run may take 10 us, so the time of the check counts.
        self._shape = self.inputs[0].shape if len(self.inputs) == 1 else None
        self._dtype = self.inputs[0].dtype if len(self.inputs) == 1 else None
        self._result = self.outputs[0] if len(self.outputs) == 1 else self.outputs

    def run(self, *inputs: Array, out: Array | Sequence[Array] | None = None) -> Array | tuple[Array, ...]:
        """Run the net and return its raw outputs.

        Args:
            inputs: arrays with the shapes and dtypes of `self.inputs`; none: run on `self.inputs` as they are.
            out: copy the outputs into this array too, or into one array for each output.

        Returns:
            The plan's own output array (a tuple if there are several), valid until the next run.

        Raises:
            ValueError: an array of another shape or dtype.
        """
        one = inputs[0] if len(inputs) == 1 else None
        if type(one) is np.ndarray and one.shape == self._shape and one.dtype is self._dtype:
            self._stores[0](..., one)
        elif inputs:
            _check("input", inputs, self.inputs)
            for store, given in zip(self._stores, inputs, strict=True):
                store(..., given)
        if self.large:
            _execute_large(self.calls)
        else:
            for call in self.calls:
                call()
        if out is not None:
            targets = (out,) if isinstance(out, np.ndarray) else tuple(out)
            _check("output", targets, self.outputs)
            for target, own in zip(targets, self.outputs, strict=True):
                np.copyto(target, own)
        return self._result

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], None]:
        """Return a function that runs from these inputs into these outputs (shared memory, say) without copies.

        It shares the plan's arena: never run it at the same time as the plan or another binding of it.

        Args:
            inputs: C-contiguous, aligned, of the planned shapes and data types.
            outputs: likewise, writeable; they must not overlap the inputs.
                Both may be float32 where the plan has another type: they are then converted by a copy.

        Raises:
            ValueError: an array of another shape, dtype or layout.
        """
        sources, before = _adapted(inputs, self.inputs)
        targets, after = _adapted(outputs, self.outputs)
        _check("input", sources, self.inputs, contiguous=True)
        _check("output", targets, self.outputs, contiguous=True)
        sections = self._binder([_plain(array) for array in sources], [_plain(array) for array in targets])
        calls: list[Call] = [
            *(partial(np.copyto, own, given, "unsafe") for own, given in before),
            *_flat(sections),
            *(partial(np.copyto, given, own, "unsafe") for own, given in after),
        ]
        return partial(_execute_large if self.large else _execute, calls)


def _flat(sections: Sequence[tuple[str, Sequence[Call]]]) -> list[Call]:
    return [call for _, calls in sections for call in calls]


def _execute(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _execute_large(calls: Sequence[Call]) -> None:
    with small_buffers():
        for call in calls:
            call()


@contextmanager
def small_buffers() -> Iterator[None]:
    """Limit this thread's ufunc buffers to BUFFER elements within the block."""
    before = np.setbufsize(BUFFER)
    try:
        yield
    finally:
        np.setbufsize(before)


def _adapted(given: Sequence[Array], own: Sequence[Array]) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """Return arrays to bind, new ones where float32 is given for another type, and the pairs to convert between."""
    arrays, pairs = list(given), []
    for index, (array, wanted) in enumerate(zip(given, own, strict=False)):
        if array.dtype == np.float32 != wanted.dtype and array.shape == wanted.shape:
            arrays[index] = np.zeros(wanted.shape, wanted.dtype)
            pairs.append((arrays[index], array))
    return arrays, pairs


def _plain(array: Array) -> Array:
    """Return the same memory with regular strides: axes of length 1 may have some that BLAS does not accept."""
    return array.reshape(-1).reshape(array.shape)


def _check(kind: str, given: Sequence[Array], own: Sequence[Array], *, contiguous: bool = False) -> None:
    if len(given) != len(own):
        raise ValueError(f"expected {len(own)} {kind} arrays, found {len(given)}")
    for index, (array, wanted) in enumerate(zip(given, own, strict=True)):
        if array.dtype != wanted.dtype or array.shape != wanted.shape:
            raise ValueError(
                f"{kind} {index}: expected {wanted.dtype} of shape {wanted.shape}, "
                f"found {array.dtype} of shape {array.shape}"
            )
        if contiguous and not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(f"{kind} {index}: expected a C-contiguous, aligned array, found strides {array.strides}")
        if kind == "output" and not array.flags.writeable:
            raise ValueError(f"{kind} {index}: the array is read-only")
