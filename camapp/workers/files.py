"""The job of a worker that classifies files: read, prepare, run in batches, decode, and write the lines for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from camapp.capture.images import read_image
from camapp.capture.pixels import silence_opencv
from camapp.records import Frame, Shot
from camapp.rows import FORMATS, Row, shown, truth_of
from camapp.tasks.task import Floats, Prepared, TaskOptions, create_task
from engine.model import Model
from engine.plan import Plan

# Pixels that wait for their batch to be full: bounds memory where pictures are large.
_WAITING_BYTES = 32 << 20


@dataclass(frozen=True)
class FilesOptions:
    """How files are classified; plain values, for they go to other processes.

    Attributes:
        task: the task's options; each picture stands alone, so smoothing must be 0.
        batch: items a plan runs at once.
        truth: where true labels come from: 'auto', 'name', 'folder' or 'none'.
        formats: which of `camapp.rows.FORMATS` to write.
        model: name of the model, for the rows.
    """

    task: TaskOptions
    batch: int
    truth: str
    formats: tuple[str, ...]
    model: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A picture whose items lie in the batch."""

    file: str
    frame: Frame
    prepared: Prepared


@dataclass(frozen=True)
class Read:
    """What came of some files.

    Attributes:
        files: how many.
        bad: (file, reason) of each that could not be read.
        said: (truth, label) -> how often, of pictures whose truth is known.
        lines: text by format, a line a file, in order.
    """

    files: int
    bad: tuple[tuple[str, str], ...]
    said: Counter[tuple[str, str]]
    lines: dict[str, str]

    @classmethod
    def of(cls, rows: Sequence[Row], formats: Iterable[str]) -> Read:
        """Of finished rows."""
        bad = tuple((row.file, row.error) for row in rows if row.error)
        said = Counter((row.truth, row.prediction.label) for row in rows if row.prediction and row.truth)
        return cls(len(rows), bad, said, {name: FORMATS[name].lines(rows) for name in formats})

    @classmethod
    def from_json(cls, text: bytes) -> Read:
        """What `to_json` wrote."""
        found = json.loads(text)
        said = Counter({(truth, label): count for truth, label, count in found["said"]})
        return cls(found["files"], tuple((file, reason) for file, reason in found["bad"]), said, found["lines"])

    def to_json(self) -> bytes:
        """One JSON object."""
        said = [[truth, label, count] for (truth, label), count in self.said.items()]
        return json.dumps({"files": self.files, "bad": self.bad, "said": said, "lines": self.lines}).encode()


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
        self._batch = max(options.batch, self._task.max_items)
        self._model = model
        self._plans: dict[int, Plan] = {}
        self._input = self._plan(self._batch).inputs[0]

    def __call__(self, message: bytes) -> bytes:
        """A JSON list of files in, `Read` as JSON out."""
        return Read.of(list(self.rows(json.loads(message))), self._options.formats).to_json()

    def rows(self, files: Iterable[str]) -> Iterator[Row]:
        """Classify files, batch by batch: a row each, in their order; those that cannot be read say why."""
        waiting: list[_Waiting | Row] = []
        used = held = 0
        for file in files:
            if used + self._task.max_items > self._batch or held > _WAITING_BYTES:
                yield from self._finish(waiting, used)
                waiting, used, held = [], 0, 0
            try:
                picture = read_image(file)
                frame = Frame(0, Shot(picture, picture))
                prepared = self._task.prepare(frame, self._input[used:])
            except (OSError, ValueError, MemoryError, cv2.error) as error:
                waiting.append(Row(shown(file), self._options.model, error=_reason(error)))
                continue
            waiting.append(_Waiting(file, frame, prepared))
            used += prepared.count
            held += picture.data.nbytes
        yield from self._finish(waiting, used)

    def _finish(self, waiting: list[_Waiting | Row], used: int) -> Iterator[Row]:
        read = [item for item in waiting if isinstance(item, _Waiting)]
        frames, prepared = [item.frame for item in read], [item.prepared for item in read]
        predictions = iter(self._task.decode_stills(frames, self._run(used), prepared))
        for item in waiting:
            if isinstance(item, Row):
                yield item
            else:
                truth = truth_of(item.file, self._options.truth, self._labels)
                size = item.frame.view.size
                yield Row(shown(item.file), self._options.model, size, truth, next(predictions))

    def _run(self, used: int) -> tuple[Floats, ...]:
        """The net's outputs for so many items, by a plan of that many or somewhat more."""
        size = min(self._batch, 1 << max(0, used - 1).bit_length())
        plan = self._plan(size)
        if size < self._batch:
            plan.inputs[0][:used] = self._input[:used]
        if used:
            plan.run()
        return tuple(output[:used] for output in plan.outputs)

    def _plan(self, size: int) -> Plan:
        if size not in self._plans:
            self._plans[size] = self._model.plan((size, *self._model.card.input_shape))
        return self._plans[size]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).split()) or type(error).__name__
