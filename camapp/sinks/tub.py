"""Records a drive as a donkeycar tub: raw frames, predictions and the orders sent, to be replayed with `tub:FOLDER`."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from camapp.capture.tub import CAMERA, IMAGE, LEARNED, MOMENT, TRUTHS, VIEW
from camapp.core.events import moment_ns
from camapp.core.files import write_atomic
from camapp.core.frames import Frame, Trace
from camapp.core.image import Image, Layout
from camapp.core.json_records import prediction_record
from camapp.core.predictions import Prediction
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import PredictionSink, refusals
from camapp.system.output_lock import OutputLock

log = logging.getLogger(__name__)

_MAX_QUEUED, _STOP_S = 16, 10.0
# Longest wait of a file's frames for the disk before one is left out, in seconds.
_WAIT_S = 30.0
# Records of a catalog, as donkeycar has them.
_PER_CATALOG = 1000
# Lossless, since a replay is to give the same predictions. On a loaded Xeon, PNG took 1.6 ms of CPU and 23 kB at
# 160x120, 26 ms and 290 kB at 640x480; JPEG took a twentieth of the time, but changes the pixels.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_INPUTS = {IMAGE: "image_array", "user/angle": "float", "user/throttle": "float", "user/mode": "str"}


class TubSink(BackgroundSink[tuple[Image, dict[str, Any], int]], PredictionSink):
    """Writes every predicted frame, losslessly, with a record of donkeycar's form and keys of its own beside.

    An image is written before its record, and a record in one step: whatever ends the run, a replay finds whole records
    whose images are whole. A full disk costs frames, which are counted.

    Args:
        folder: its first free name is used: a tub that is there stays as it is.
        learned: returns what the task has started from.
        order_of: returns the line that was sent to the car's controller for a frame, if one was.
        blocking: wait for the disk instead of losing frames (for files, whose frames can wait).

    Attributes:
        saved: frames written.
        lost: frames that could not be written.
    """

    def __init__(
        self,
        folder: Path,
        learned: Callable[[], Mapping[str, float]] = dict,
        order_of: Callable[[int], str] = lambda seq: "",
        blocking: bool = False,
        owner: str = "camera",
    ) -> None:
        super().__init__("tub", _MAX_QUEUED, _STOP_S, blocking=blocking, wait_s=_WAIT_S)
        self.saved = 0
        self._wanted, self._owner = folder, owner
        self._learned, self._order_of = learned, order_of
        self._created = time.time()
        self._session = time.strftime("%y-%m-%d_0", time.localtime(self._created))
        self._catalogs: list[str] = []
        self._lengths: list[int] = []
        self._file: int | None = None

    def start(self) -> None:
        """Make the folder and lock it. Raises SinkError."""
        with refusals(f"cannot record a drive into '{self._wanted}'", "; give --record-drive another folder"):
            self._folder = _new_folder(self._wanted)
            (self._folder / "images").mkdir()
            self._lock = OutputLock(self._folder, self._owner)
            self._lock.acquire()
            self._write_manifest()
        super().start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Queue a frame with its record."""
        shot = frame.shot
        record = {MOMENT: moment_ns(frame, trace), "camapp/prediction": prediction_record(prediction, frame, trace)}
        if shot.view.size != shot.model_view.size:
            record[VIEW] = shot.view.size
        if shot.camera is not None:
            record[CAMERA] = asdict(shot.camera)
        values = shot.truth.values if shot.truth else {}
        record |= {key: values[name] for name, key in TRUTHS.items() if name in values}
        age_ms = (time.monotonic_ns() - (trace.sensor or trace.captured)) / 1e6
        record["_timestamp_ms"] = round(time.time() * 1e3 - age_ms)
        if not self.put((shot.model_view, record, frame.seq)):
            self._lose("the disk is too slow")

    def stop(self) -> None:
        """Write what is queued, and the manifest."""
        super().stop()
        lost = self.lost + self.pending
        log.info("recorded %d frames of a drive into '%s'%s", self.saved, self._folder, f", {lost} lost" * bool(lost))

    def _handle(self, item: tuple[Image, dict[str, Any], int]) -> None:
        image, record, seq = item
        name = f"{self.saved}_cam_image_array_.png"
        path = self._folder / "images" / name
        try:
            pixels = image.gray() if image.layout is Layout.GRAY else image.bgr()
            path.write_bytes(cv2.imencode(".png", pixels, _PNG)[1].tobytes())
            if order := self._order_of(seq):
                record["camapp/order"] = order
            own = {"_index": self.saved, "_session_id": self._session, IMAGE: name, "user/mode": "user"}
            self._append(json.dumps(own | record, sort_keys=True) + "\n")
        except OSError as error:
            path.unlink(missing_ok=True)
            self._lose(error.strerror or str(error))
        else:
            self.saved += 1

    def _append(self, line: str) -> None:
        """Write a line whole or not at all. Raises OSError."""
        if self._file is None or len(self._lengths) == _PER_CATALOG:
            self._next_catalog()
        assert self._file is not None
        before = os.fstat(self._file).st_size
        data = line.encode("ascii")
        try:
            written = os.write(self._file, data)
        except OSError:
            written = 0
            raise
        finally:
            if written < len(data):
                os.ftruncate(self._file, before)
        if written < len(data):
            raise OSError("the disk is full")
        self._lengths.append(len(data))

    def _next_catalog(self) -> None:
        self._close_catalog()
        name = f"catalog_{len(self._catalogs)}.catalog"
        self._file = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._catalogs.append(name)
        self._write_manifest()

    def _close_catalog(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            name = self._catalogs[-1] + "_manifest"
            start = self.saved - len(self._lengths)
            lengths = {"created_at": self._created, "line_lengths": self._lengths, "path": name, "start_index": start}
            self._lengths = []
            (self._folder / name).write_text(json.dumps(lengths) + "\n")

    def _write_manifest(self) -> None:
        sessions = {"all_full_ids": [self._session], "last_id": 0, "last_full_id": self._session}
        last = {"paths": self._catalogs, "current_index": self.saved, "max_len": _PER_CATALOG, "deleted_indexes": []}
        parts = [[*_INPUTS], [*_INPUTS.values()], {LEARNED: dict(self._learned())}]
        parts += [{"created_at": self._created, "sessions": sessions}, last]
        text = "".join(json.dumps(part) + "\n" for part in parts)
        write_atomic(self._folder / "manifest.json", text.encode())

    def _finish(self) -> None:
        try:
            self._close_catalog()
            self._write_manifest()
        except OSError as error:
            log.error("cannot finish the drive in '%s': %s", self._folder, error.strerror)
        self._lock.release()

    def _lose(self, reason: str) -> None:
        if self.lose(reason):
            log.error("cannot record a frame into '%s': %s (%d lost)", self._folder, reason, self.lost)


def _new_folder(path: Path) -> Path:
    """Make a folder under the first free name of x, x-2, x-3, ...; an empty one is free. Raises OSError."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            if not candidate.is_dir() or any(candidate.iterdir()):
                number += 1
                continue
        return candidate
