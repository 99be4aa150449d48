"""Short clips of events: the seconds before and after a label or a threshold, within a disk budget."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2

from camapp.core.events import Trigger, moment_ns
from camapp.core.files import try_to_create_in
from camapp.core.frames import Frame, Trace
from camapp.core.image import Image
from camapp.core.predictions import Prediction
from camapp.sinks.avi import MAX_BYTES, AviWriter, finish_left_file
from camapp.sinks.background import BackgroundSink
from camapp.sinks.sink import PredictionSink, refusals
from camapp.system.output_lock import OutputLock

log = logging.getLogger(__name__)

# A clip need not be smooth; encoding an image takes about 10 ms of a Pi's core.
MAX_FPS = 15.0
# Slightly less than the interval of MAX_FPS, because frames arrive with jitter.
_INTERVAL_NS = 0.9e9 / MAX_FPS
_MAX_QUEUED = 4
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 85)
_NAME = re.compile(r"(\d{6,})-\d{8}-\d{6}-.*\.avi")


class _Encoded(NamedTuple):
    moment_ns: int
    jpeg: bytes
    size: tuple[int, int]


class _RingBuffer:
    """The encoded images of the last seconds, all of one size, within a memory limit."""

    def __init__(self, span_ns: int, max_bytes: int) -> None:
        self._span_ns = span_ns
        self._max_bytes = max_bytes
        self._images: deque[_Encoded] = deque()
        self._bytes = 0

    def add(self, image: _Encoded) -> None:
        newest = self._images[-1] if self._images else image
        if image.size != newest.size or image.moment_ns < newest.moment_ns:
            self.take_all()
        self._images.append(image)
        self._bytes += len(image.jpeg)
        while self._bytes > self._max_bytes or image.moment_ns - self._images[0].moment_ns > self._span_ns:
            self._bytes -= len(self._images.popleft().jpeg)

    def take_all(self) -> list[_Encoded]:
        """Remove and return all images."""
        images = list(self._images)
        self._images.clear()
        self._bytes = 0
        return images


class _Clip:
    """A clip that is being written; the file gets its final name when it is complete."""

    def __init__(self, path: Path, event: str, first: _Encoded) -> None:
        self.event = event
        self.size = first.size
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._first_ns = self.last_ns = first.moment_ns
        self._file = self._partial.open("wb", buffering=0)
        try:
            self._avi = AviWriter(self._file, first.size, MAX_FPS)
        except OSError:
            self.abandon()
            raise

    @property
    def bytes(self) -> int:
        return self._avi.bytes_written

    @property
    def seconds(self) -> float:
        return (self.last_ns - self._first_ns) / 1e9

    def add(self, image: _Encoded) -> None:
        self._avi.add(image.jpeg)
        self.last_ns = image.moment_ns
        if self.seconds > 0:
            self._avi.fps = (len(self._avi) - 1) / self.seconds

    def finish(self) -> None:
        if not len(self._avi):
            raise OSError(errno.ENOSPC, "no image fits into --clip-budget-mb")
        self._avi.finish()
        # Without it, a power cut after the renaming would leave an empty clip.
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._path)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
            self._partial.unlink()


def _finish_left(partial: Path) -> None:
    """Finish a clip that a killed run has left, under the name it was to get. Raises OSError."""
    frames = finish_left_file(partial)
    if frames == 0 or not partial.stat().st_size:
        partial.unlink()
        return
    path = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    os.replace(partial, path)
    log.info("finished the clip '%s', which a killed run has left", path)


class ClipSink(BackgroundSink[tuple[int, Image, str]], PredictionSink):
    """Keeps the last seconds as JPEG images in memory; at an event, writes a clip of them and of the next seconds.

    Images that the background thread cannot encode in time are left out of the clip. An event during a clip makes it
    longer. A full disk costs clips, which are counted, never the run.

    Args:
        folder: for files such as `000012-20260131-142501-cat.avi`; created if needed. The number orders them even if
            the clock is wrong.
        events: labels, `*` for any, and comparisons such as `score<0.5` or `person>2`; see `camapp.core.events`.
        before: seconds in the clip before the event.
        after: seconds after it.
        budget: bytes that the folder's clips may take; the oldest are deleted first.
        blocking: wait for the thread, at most 2 s, instead of leaving images out (for files, whose frames can wait).
        ring_bytes: memory for the seconds before an event; large images shorten them.
        max_clip_s: longest clip; an event that lasts longer continues in the next one.
        owner: name of the run, for another one that names the same folder.

    Attributes:
        saved: clips on the disk.
        lost: clips that could not be written.
        skipped: images left out because the thread was behind.

    Raises:
        SinkError: an event cannot be parsed.
    """

    def __init__(
        self,
        folder: Path,
        events: Iterable[str],
        before: float = 3.0,
        after: float = 5.0,
        budget: int = 500_000_000,
        blocking: bool = False,
        ring_bytes: int = 48 << 20,
        max_clip_s: float = 120.0,
        owner: str = "camera",
    ) -> None:
        super().__init__("clips", _MAX_QUEUED, blocking=blocking, wait_s=2.0, tick_s=0.2)
        self.saved = 0
        self.skipped = 0
        self._folder = folder
        self._trigger = Trigger(events)
        self._after_ns = round(after * 1e9)
        self._max_clip_s = max_clip_s
        self._queued_ns = 0
        self._event = ""
        self._ring = _RingBuffer(round(before * 1e9), ring_bytes)
        self._budget = budget
        # The clips in the folder, oldest first, and their sizes.
        self._clips: deque[tuple[Path, int]] = deque()
        self._clip: _Clip | None = None
        self._end_ns = 0
        self._received_ns = time.monotonic_ns()
        self._owner = owner
        self._lock: OutputLock | None = None

    def start(self) -> None:
        """Create and lock the folder, and check that it can be written. Raises SinkError."""
        what, remedy = f"cannot write clips into '{self._folder}'", "; give --clips another folder"
        with refusals(what, remedy, self._unlock):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = OutputLock(self._folder, self._owner)
            self._lock.acquire()
            for partial in self._folder.glob(".*.avi.partial"):
                _finish_left(partial)
            try_to_create_in(self._folder)
        super().start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Look for the start of an event, and queue the image if one is due."""
        if started := self._trigger.begins(prediction, frame, trace):
            self._event = started[0].name
        moment = moment_ns(frame, trace)
        if 0 <= moment - self._queued_ns < _INTERVAL_NS and not self._event:
            return
        self._queued_ns = moment
        if not self.put((moment, frame.view, self._event)):
            # An event waits for the next image.
            self.skipped += 1
            return
        self._event = ""

    def stop(self) -> None:
        """End the clip that is being written."""
        super().stop()
        if self.lost:
            log.warning("%d clips could not be written", self.lost)

    def _handle(self, item: tuple[int, Image, str]) -> None:
        self._received_ns = time.monotonic_ns()
        try:
            self._add(*item)
        except (OSError, ValueError, MemoryError, cv2.error) as error:
            self._fail(error)

    def _idle(self) -> None:
        # The source has been silent; its next images belong to another clip.
        if time.monotonic_ns() - self._received_ns > self._after_ns:
            self._end_clip()

    def _add(self, moment: int, image: Image, event: str) -> None:
        _, jpeg = cv2.imencode(".jpg", image.bgr(), _JPEG)
        encoded = _Encoded(moment, jpeg.tobytes(), image.size)
        if (clip := self._clip) is not None and not self._belongs(encoded, clip):
            self._end_clip()
        if self._clip is None:
            self._ring.add(encoded)
            if event:
                self._begin(event, encoded)
            return
        if event:
            self._end_ns = moment + self._after_ns
        if self._make_room(self._clip.bytes + len(encoded.jpeg)):
            self._clip.add(encoded)
        else:
            self._end_clip()

    def _belongs(self, image: _Encoded, clip: _Clip) -> bool:
        return (
            image.size == clip.size
            and clip.last_ns <= image.moment_ns <= self._end_ns
            and clip.seconds < self._max_clip_s
            and clip.bytes < MAX_BYTES
        )

    def _begin(self, event: str, newest: _Encoded) -> None:
        found = sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
        self._clips = deque((path, path.stat().st_size) for path in found)
        number = int(found[-1].name.partition("-")[0]) + 1 if found else 1
        label = re.sub(r"[^\w.-]+", "_", event)[:40]
        name = f"{number:06d}-{time.strftime('%Y%m%d-%H%M%S')}-{label}.avi"
        self._end_ns = newest.moment_ns + self._after_ns
        images = self._ring.take_all()
        self._clip = _Clip(self._folder / name, event, images[0])
        for image in images:
            if self._make_room(self._clip.bytes + len(image.jpeg)):
                self._clip.add(image)

    def _make_room(self, wanted: int) -> bool:
        """Delete old clips until `wanted` bytes fit; return whether they do. Raises OSError."""
        if wanted > self._budget:
            return False
        while self._clips and sum(size for _, size in self._clips) + wanted > self._budget:
            path, _ = self._clips.popleft()
            path.unlink(missing_ok=True)
        return True

    def _finish(self) -> None:
        self._end_clip()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _end_clip(self) -> None:
        if self._clip is None:
            return
        try:
            self._clip.finish()
        except OSError as error:
            self._fail(error)
            return
        clip, self._clip = self._clip, None
        self.saved += 1
        log.info("clip of %.1f s saved: %s", clip.seconds, clip.event)

    def _fail(self, error: Exception) -> None:
        if self._clip is not None:
            self._clip.abandon()
            self._clip = None
        if self.lose(str(error.strerror if isinstance(error, OSError) else error)):
            log.error(
                "cannot write a clip into '%s': %s; the run continues (%d lost)", self._folder, self.reason, self.lost
            )
