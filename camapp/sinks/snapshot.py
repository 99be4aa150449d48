"""Writes the drawn picture to a PNG file when asked, away from the frames' way."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from pathlib import Path

import cv2

from camapp.picture import Pixels
from camapp.records import Trace
from camapp.sinks.sink import PictureSink

log = logging.getLogger(__name__)

_WAITING = 4
_STOP_S = 2.0


class SnapshotSink(PictureSink):
    """After `request`, saves the next picture shown as `folder/YYYYmmdd-HHMMSS-seq.png`.

    Args:
        folder: made when first needed.
    """

    def __init__(self, folder: Path = Path("snapshots")) -> None:
        self.saved = 0
        self._folder = folder
        self._wanted = threading.Event()
        self._queue: queue.Queue[tuple[Pixels, Path] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._save_all, name="snapshot", daemon=True)

    def start(self) -> None:
        """Be ready to save."""
        self._thread.start()

    def request(self) -> None:
        """Save the next picture."""
        self._wanted.set()

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Save this picture if one was asked for."""
        if not self._wanted.is_set():
            return
        self._wanted.clear()
        number = f"{trace.seq:06d}" if trace else "notice"
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{number}.png"
        try:
            self._queue.put_nowait((canvas.copy(), path))
        except queue.Full:
            log.warning("snapshot left out: %d are still being written", _WAITING)

    def stop(self) -> None:
        """Finish the pictures that wait."""
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=_STOP_S)
            except queue.Full:
                return
            self._thread.join(_STOP_S)

    def _save_all(self) -> None:
        while (item := self._queue.get()) is not None:
            picture, path = item
            partial = path.with_name(f".{path.name}.partial")
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                _, encoded = cv2.imencode(".png", picture)
                partial.write_bytes(encoded.tobytes())
                os.replace(partial, path)
            except OSError as error:
                log.warning("cannot save the snapshot '%s': %s", path, error.strerror)
                with contextlib.suppress(OSError):
                    partial.unlink()
                continue
            self.saved += 1
            log.info("saved '%s'", path)
