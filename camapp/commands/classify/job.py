"""Classifies lists of image files: reads them, runs the net in batches, and writes their lines."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from camapp.capture.images import read_image
from camapp.commands.classify.formats import FORMATS, ResultRow, shown
from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image import Image, silence_opencv
from camapp.core.log_once import LogOnce
from camapp.core.models import run_items
from camapp.core.predictions import Prediction
from camapp.core.truth import TruthRule
from camapp.overlay.overlay import Overlay
from camapp.sinks.drawn import write_drawn
from camapp.tasks.task import Prepared, TaskOptions, create_task
from engine.model import Model

log = logging.getLogger(__name__)

# Bytes of pixels that wait for a full batch; limits the memory if images are large.
_WAITING_BYTES = 32 << 20


@dataclass(frozen=True)
class FilesOptions:
    """Holds the options of a job; plain values, since they are sent to other processes.

    Attributes:
        task: options of the task; smoothing must be 0, since the images are independent.
        truth: source of true labels, see `camapp.core.truth.TruthRule`.
        drawn: folder for the drawn pictures; "" for none.
        bases: paths below which the pictures keep their folders in `drawn`.
    """

    task: TaskOptions
    batch: int
    truth: str
    formats: tuple[str, ...]
    model: str
    drawn: str = ""
    bases: tuple[str, ...] = ()


# A file, and its image or the reason why it cannot be read.
_Opened = tuple[str, Image | str]


@dataclass(frozen=True)
class ReadItem:
    """Holds the results of some files.

    Attributes:
        bad: (file, reason) of each that could not be read.
        predicted: (truth, predicted label) -> number of images; only images whose truth is known.
        lines: text in UTF-8 by format, a line a file, in order.
    """

    files: int
    bad: tuple[tuple[str, str], ...]
    predicted: Counter[tuple[str, str]]
    lines: dict[str, bytes]

    @classmethod
    def of(cls, rows: Sequence[ResultRow], formats: Iterable[str]) -> ReadItem:
        """Make the results of finished rows."""
        bad = tuple((row.file, row.error) for row in rows if row.error)
        predicted = Counter([(row.truth, row.prediction.label) for row in rows if row.prediction and row.truth])
        lines = {name: FORMATS[name](rows).encode("utf-8", "backslashreplace") for name in formats}
        return cls(len(rows), bad, predicted, lines)

    @classmethod
    def given_up(cls, files: Iterable[str], reason: str, options: FilesOptions) -> ReadItem:
        """Make the results of files that could not be classified."""
        return cls.of([ResultRow(shown(file), options.model, error=reason) for file in files], options.formats)

    @classmethod
    def from_bytes(cls, data: bytes) -> ReadItem:
        """Read the bytes of `to_bytes`."""
        head, _, rest = data.partition(b"\n")
        files, bad, predicted, sizes = json.loads(head)
        lines = {}
        for name, size in sizes.items():
            lines[name], rest = rest[:size], rest[size:]
        counts = Counter({(truth, label): count for truth, label, count in predicted})
        return cls(files, tuple(map(tuple, bad)), counts, lines)

    def to_bytes(self) -> bytes:
        """Return one line of JSON, then the lines unchanged."""
        predicted = [(*pair, count) for pair, count in self.predicted.items()]
        sizes = {name: len(text) for name, text in self.lines.items()}
        head = json.dumps((self.files, self.bad, predicted, sizes)).encode()
        return b"\n".join((head, b"".join(self.lines.values())))


def to_message(files: Iterable[str]) -> bytes:
    """Return file names as the message to a worker; a name never contains a zero byte."""
    return os.fsencode("\0".join(files))


def make(model: Model, options: dict[str, Any]) -> FilesJob:
    """Make the job from options that were sent as JSON."""
    task: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options["task"].items()
    }
    formats, bases = tuple(options["formats"]), tuple(options["bases"])
    return FilesJob(model, FilesOptions(**{**options, "task": TaskOptions(**task), "formats": formats, "bases": bases}))


class FilesJob:
    """Classifies lists of files, in this process."""

    def __init__(self, model: Model, options: FilesOptions) -> None:
        """Make the job for one model.

        Raises:
            ValueError: the task does not support the model, or its options are out of range.
        """
        cv2.setNumThreads(1)
        silence_opencv()
        self.task = create_task(model.card.task, model.card, options.task)
        self._truth = TruthRule(model.card.labels, options.truth, numbers=self.task.name == "digits")
        self._options = options
        self._overlay = Overlay()
        self._log_once = LogOnce(log)
        # A group of images with one item each fills the batch; the last image may have up to `max_items` items.
        self._group = max(1, options.batch)
        self._batch = self._group + self.task.max_items - 1
        self._model = model
        self._only_batch = model.only_batch if self.task.batches else 1
        self._input = np.zeros((self._batch, *model.card.input_shape), np.float32)
        self._runs: dict[int, tuple[Callable[[], None], tuple[Floats, ...]]] = {}

    def __call__(self, message: bytes) -> Iterator[bytes]:
        """Classify the files of a message; yield `ReadItem` bytes, and empty bytes every second as a sign of life."""
        rows: list[ResultRow] = []
        signalled = time.monotonic()
        for group in self._read(os.fsdecode(message).split("\0")):
            rows += self._classify(group)
            if time.monotonic() > signalled + 1:
                signalled = time.monotonic()
                yield b""
        yield ReadItem.of(rows, self._options.formats).to_bytes()

    def rows(self, files: Iterable[str]) -> list[ResultRow]:
        """Classify files, batch by batch; return a row for each, in their order, with an error if it cannot be read."""
        return [row for group in self._read(files) for row in self._classify(group)]

    # Each step is done for a whole group before the next, so that its code and tables stay in the processor's caches.
    # With small images, all steps for one image after another take a fifth longer.

    def _read(self, files: Iterable[str]) -> Iterator[list[_Opened]]:
        """Yield the images, or the reasons why they cannot be read, in groups that fit into memory."""
        group: list[_Opened] = []
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

    def _classify(self, group: list[_Opened]) -> Iterator[ResultRow]:
        model = self._options.model
        answers = iter(self._predict([found for _, found in group if isinstance(found, Image)]))
        for file, found in group:
            answer = next(answers) if isinstance(found, Image) else found
            if isinstance(found, str) or isinstance(answer, str):
                yield ResultRow(shown(file), model, error=str(answer))
            else:
                truth = shown(self._truth(file))
                if self._options.drawn:
                    self._draw(file, found, answer, truth)
                yield ResultRow(shown(file), model, found.size, truth, answer)

    def _draw(self, file: str, image: Image, prediction: Prediction, truth: str) -> None:
        """Write a picture with its prediction; a disk that is full costs pictures, with one error."""
        canvas = image.bgr().copy()
        self._overlay.draw(canvas, prediction, None, 0.0, False, truth=truth, exact=True)
        base = next((base for base in self._options.bases if file.startswith(os.path.join(base, ""))), None)
        inside = os.path.relpath(file, base) if base else os.path.basename(file)
        try:
            write_drawn(canvas, Path(self._options.drawn, inside))
        except OSError as error:
            reason = error.strerror or str(error)
            self._log_once(
                logging.ERROR, reason, "cannot write drawn pictures into %s: %s", self._options.drawn, reason
            )

    def _predict(self, images: Sequence[Image]) -> list[Prediction | str]:
        """Return a prediction for each image, or an error; the plan runs whenever its batch may be full."""
        stills = self.task.prepare_stills(images, self._input)
        ready = {index: prepared for index, prepared in enumerate(stills) if prepared}
        used = len(ready)
        answers: dict[int, Prediction | str] = {}
        for index in [index for index, prepared in enumerate(stills) if not prepared]:
            if used + self.task.max_items > self._batch:
                answers |= self._decode(images, ready, used)
                ready, used = {}, 0
            try:
                ready[index] = self.task.prepare(Frame.still(images[index]), self._input[used:])
                used += ready[index].count
            except (ValueError, MemoryError, cv2.error) as error:
                answers[index] = _reason(error)
        answers |= self._decode(images, ready, used)
        return [answers[index] for index in range(len(images))]

    def _decode(self, images: Sequence[Image], ready: dict[int, Prepared], used: int) -> dict[int, Prediction]:
        """Return predictions for the images whose items, `used` in all, are in the input."""
        if not ready:
            return {}
        chosen = [images[index] for index in ready]
        return dict(zip(ready, self.task.decode_stills(chosen, self._run(used), list(ready.values())), strict=True))

    def _run(self, used: int) -> tuple[Floats, ...]:
        """Return the net's outputs for the first `used` items, by a plan of that size or the next power of two."""
        if self._only_batch:
            return run_items(self._model, self._input, used, self._only_batch)
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
