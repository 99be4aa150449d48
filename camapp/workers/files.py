"""The job of a worker that classifies files: read, prepare, run in batches, decode, and write the lines for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from camapp.capture.images import read_image
from camapp.capture.pixels import silence_opencv
from camapp.records import Frame, Prediction, Shot
from camapp.rows import FORMATS, Row, shown, truth_of
from camapp.tasks.task import Floats, Prepared, TaskOptions, create_task
from engine.model import Model

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


_Found = tuple[str, Frame | str]  # a file, and its frame or why there is none


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
    def given_up(cls, files: Iterable[str], reason: str, options: FilesOptions) -> Read:
        """Of files that could not be tried to the end."""
        return cls.of([Row(shown(file), options.model, error=reason) for file in files], options.formats)

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
        # So many pictures of one item each fill a batch, though the last may turn out to have the most there are.
        self._group = max(1, options.batch)
        self._batch = self._group + self._task.max_items - 1
        self._model = model
        self._input = np.zeros((self._batch, *model.card.input_shape), np.float32)
        self._runs: dict[int, tuple[Callable[[], None], tuple[Floats, ...]]] = {}

    def __call__(self, message: bytes) -> bytes:
        """A JSON list of files in, `Read` as JSON out."""
        return Read.of(list(self.rows(json.loads(message))), self._options.formats).to_json()

    def rows(self, files: Iterable[str]) -> Iterator[Row]:
        """Classify files, batch by batch: a row each, in their order; those that cannot be read say why."""
        for group in self._read(files):
            yield from self._classify(group)

    # Each step is done for a whole group before the next: its code and tables stay in the processor's caches.
    # With small pictures, one after another through all steps takes a fifth longer.

    def _read(self, files: Iterable[str]) -> Iterator[list[_Found]]:
        """The pictures, or why there is none, in groups that may wait in memory."""
        group: list[_Found] = []
        held = 0
        for file in files:
            if len(group) == self._group or held > _WAITING_BYTES:
                yield group
                group, held = [], 0
            try:
                picture = read_image(file)
            except (OSError, ValueError, MemoryError) as error:
                group.append((file, _reason(error)))
                continue
            group.append((file, Frame(0, Shot(picture, picture))))
            held += picture.data.nbytes
        yield group

    def _classify(self, group: list[_Found]) -> Iterator[Row]:
        model, way = self._options.model, self._options.truth
        for (file, found), result in zip(group, self._predict([found for _, found in group]), strict=True):
            if isinstance(found, str) or isinstance(result, str):
                yield Row(shown(file), model, error=str(result))
            else:
                yield Row(shown(file), model, found.view.size, truth_of(file, way, self._labels), result)

    def _predict(self, found: Iterable[Frame | str]) -> Iterator[Prediction | str]:
        """A prediction for each frame, or why there is none; the plan runs each time that its batch may be full."""
        waiting: list[Frame | str] = []
        prepared: list[Prepared] = []
        used = 0
        for frame in found:
            if used + self._task.max_items > self._batch:
                yield from self._decode(waiting, prepared, used)
                waiting, prepared, used = [], [], 0
            if isinstance(frame, Frame):
                try:
                    prepared.append(self._task.prepare(frame, self._input[used:]))
                    used += prepared[-1].count
                except (ValueError, MemoryError, cv2.error) as error:
                    frame = _reason(error)
            waiting.append(frame)
        yield from self._decode(waiting, prepared, used)

    def _decode(self, waiting: list[Frame | str], prepared: list[Prepared], used: int) -> list[Prediction | str]:
        frames = [frame for frame in waiting if isinstance(frame, Frame)]
        predictions = iter(self._task.decode_stills(frames, self._run(used), prepared))
        return [frame if isinstance(frame, str) else next(predictions) for frame in waiting]

    def _run(self, used: int) -> tuple[Floats, ...]:
        """The net's outputs for so many items, by a plan of that many or somewhat more."""
        size = min(self._batch, 1 << max(0, used - 1).bit_length())
        if size not in self._runs:
            plan = self._model.plan((size, *self._model.card.input_shape))
            self._runs[size] = plan.bind([self._input[:size]], plan.outputs), plan.outputs
        run, outputs = self._runs[size]
        if used:
            run()
        return tuple(output[:used] for output in outputs)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).split()) or type(error).__name__
