"""The job of a worker that classifies files: read, prepare, run in batches, decode, and write the lines for them."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from camapp.capture.images import read_image
from camapp.commands.classify.formats import FORMATS, ResultRow, shown, truth_of
from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image import Image, silence_opencv
from camapp.core.predictions import Prediction
from camapp.tasks.task import Prepared, TaskOptions, create_task
from engine.model import Model

# Pixels that wait for their batch to be full: bounds memory where images are large.
_WAITING_BYTES = 32 << 20


@dataclass(frozen=True)
class FilesOptions:
    """How files are classified; plain values, for they go to other processes.

    Attributes:
        task: the task's options; each image stands alone, so smoothing must be 0.
        batch: items a plan runs at once.
        truth: where true labels come from: 'auto', 'name', 'folder' or 'none'.
        formats: which of `camapp.commands.classify.formats.FORMATS` to write.
        model: name of the model, for the rows.
    """

    task: TaskOptions
    batch: int
    truth: str
    formats: tuple[str, ...]
    model: str


_Found = tuple[str, Image | str]  # a file, and its image or why there is none


@dataclass(frozen=True)
class ReadItem:
    """What came of some files.

    Attributes:
        files: how many.
        bad: (file, reason) of each that could not be read.
        said: (truth, label) -> how often, of images whose truth is known.
        lines: text in UTF-8 by format, a line a file, in order.
    """

    files: int
    bad: tuple[tuple[str, str], ...]
    said: Counter[tuple[str, str]]
    lines: dict[str, bytes]

    @classmethod
    def of(cls, rows: Sequence[ResultRow], formats: Iterable[str]) -> ReadItem:
        """Of finished rows."""
        bad = tuple((row.file, row.error) for row in rows if row.error)
        said = Counter([(row.truth, row.prediction.label) for row in rows if row.prediction and row.truth])
        lines = {name: FORMATS[name].lines(rows).encode("utf-8", "backslashreplace") for name in formats}
        return cls(len(rows), bad, said, lines)

    @classmethod
    def given_up(cls, files: Iterable[str], reason: str, options: FilesOptions) -> ReadItem:
        """Of files that could not be tried to the end."""
        return cls.of([ResultRow(shown(file), options.model, error=reason) for file in files], options.formats)

    @classmethod
    def from_bytes(cls, data: bytes) -> ReadItem:
        """What `to_bytes` wrote."""
        head, _, rest = data.partition(b"\n")
        files, bad, said, sizes = json.loads(head)
        lines = {}
        for name, size in sizes.items():
            lines[name], rest = rest[:size], rest[size:]
        return cls(files, tuple(map(tuple, bad)), Counter({(true, label): count for true, label, count in said}), lines)

    def to_bytes(self) -> bytes:
        """One line of JSON, then the lines as they are."""
        said = [(*pair, count) for pair, count in self.said.items()]
        sizes = {name: len(text) for name, text in self.lines.items()}
        head = json.dumps((self.files, self.bad, said, sizes)).encode()
        return b"\n".join((head, b"".join(self.lines.values())))


def to_message(files: Iterable[str]) -> bytes:
    """Names of files as a worker is told them; no name holds a zero."""
    return os.fsencode("\0".join(files))


def make(model: Model, options: dict[str, Any]) -> FilesJob:
    """The job, from options that went through JSON."""
    task: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options["task"].items()
    }
    formats = tuple(options["formats"])
    return FilesJob(model, FilesOptions(**{**options, "task": TaskOptions(**task), "formats": formats}))


class FilesJob:
    """Classifies lists of files, in this process."""

    def __init__(self, model: Model, options: FilesOptions) -> None:
        """For one model.

        Raises:
            ValueError: the task does not know the model, or its options are out of range.
        """
        cv2.setNumThreads(1)
        silence_opencv()
        self._task = create_task(model.card.task, model.card, options.task)
        self._labels = frozenset(model.card.labels)
        self._options = options
        # So many images of one item each fill a batch, though the last may turn out to have the most there are.
        self._group = max(1, options.batch)
        self._batch = self._group + self._task.max_items - 1
        self._model = model
        self._only = model.only_batch
        self._input = np.zeros((self._batch, *model.card.input_shape), np.float32)
        self._runs: dict[int, tuple[Callable[[], None], tuple[Floats, ...]]] = {}

    def __call__(self, message: bytes) -> Iterator[bytes]:
        """Takes what `to_message` made, yields `ReadItem` bytes; an empty one every second shows that it is alive."""
        rows: list[ResultRow] = []
        told = time.monotonic()
        for group in self._read(os.fsdecode(message).split("\0")):
            rows += self._classify(group)
            if time.monotonic() > told + 1:
                told = time.monotonic()
                yield b""
        yield ReadItem.of(rows, self._options.formats).to_bytes()

    def rows(self, files: Iterable[str]) -> list[ResultRow]:
        """Classify files, batch by batch: a row each, in their order; those that cannot be read say why."""
        return [row for group in self._read(files) for row in self._classify(group)]

    # Each step is done for a whole group before the next: its code and tables stay in the processor's caches.
    # With small images, one after another through all steps takes a fifth longer.

    def _read(self, files: Iterable[str]) -> Iterator[list[_Found]]:
        """The images, or why there is none, in groups that may wait in memory."""
        group: list[_Found] = []
        held = 0
        for file in files:
            if len(group) == self._group or held > _WAITING_BYTES:
                yield group
                group, held = [], 0
            try:
                image = read_image(file)
            except (OSError, ValueError, MemoryError) as error:
                group.append((file, _reason(error)))
                continue
            group.append((file, image))
            held += image.data.nbytes
        yield group

    def _classify(self, group: list[_Found]) -> Iterator[ResultRow]:
        model, way = self._options.model, self._options.truth
        answers = iter(self._predict([found for _, found in group if isinstance(found, Image)]))
        for file, found in group:
            answer = next(answers) if isinstance(found, Image) else found
            if isinstance(found, str) or isinstance(answer, str):
                yield ResultRow(shown(file), model, error=str(answer))
            else:
                yield ResultRow(shown(file), model, found.size, truth_of(file, way, self._labels), answer)

    def _predict(self, images: Sequence[Image]) -> list[Prediction | str]:
        """A prediction for each image, or why there is none; the plan runs each time that its batch may be full."""
        at_once = self._task.prepare_stills(images, self._input)
        ready = {place: prepared for place, prepared in enumerate(at_once) if prepared}
        used = len(ready)
        answers: dict[int, Prediction | str] = {}
        for place in [place for place, prepared in enumerate(at_once) if not prepared]:
            if used + self._task.max_items > self._batch:
                answers |= self._decode(images, ready, used)
                ready, used = {}, 0
            try:
                ready[place] = self._task.prepare(Frame.still(images[place]), self._input[used:])
                used += ready[place].count
            except (ValueError, MemoryError, cv2.error) as error:
                answers[place] = _reason(error)
        answers |= self._decode(images, ready, used)
        return [answers[place] for place in range(len(images))]

    def _decode(self, images: Sequence[Image], ready: dict[int, Prepared], used: int) -> dict[int, Prediction]:
        """Predictions for those of the images whose items, `used` in all, lie in the input."""
        if not ready:
            return {}
        chosen = [images[place] for place in ready]
        return dict(zip(ready, self._task.decode_stills(chosen, self._run(used), list(ready.values())), strict=True))

    def _run(self, used: int) -> tuple[Floats, ...]:
        """The net's outputs for so many items, by a plan of that many or somewhat more."""
        if self._only:
            return self._run_by(self._only, used)
        size = min(self._batch, 1 << max(0, used - 1).bit_length())
        if size not in self._runs:
            plan = self._model.plan((size, *self._model.card.input_shape))
            self._runs[size] = plan.bind([self._input[:size]], plan.outputs), plan.outputs
        run, outputs = self._runs[size]
        if used:
            run()
        return tuple(output[:used] for output in outputs)

    def _run_by(self, size: int, used: int) -> tuple[Floats, ...]:
        """The same by a net that was made for batches of just that size."""
        shape = (size, *self._model.card.input_shape)
        found = []
        for start in range(0, max(used, 1), size):
            items = np.zeros(shape, np.float32)
            items[: max(0, used - start)] = self._input[start : min(start + size, used)]
            outputs = self._model.run(items)
            found.append(outputs if isinstance(outputs, tuple) else (outputs,))
        return tuple(np.concatenate(each)[:used] for each in zip(*found, strict=True))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).split()) or type(error).__name__
