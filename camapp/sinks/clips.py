"""Short films of what happened: the seconds before and after a label or a threshold, within a disk budget."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2

from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.image import Image
from camapp.core.predictions import Prediction
from camapp.sinks.avi import MAX_BYTES, AviWriter
from camapp.sinks.sink import PredictionSink

log = logging.getLogger(__name__)

# A film of an event need not be smooth; encoding an image costs a Pi's core some 10 ms.
MAX_FPS = 15.0
_INTERVAL_NS = 0.9e9 / MAX_FPS  # a little less, for frames do not come to the nanosecond
# What the seconds before an event may take in memory; with larger images there are fewer of them.
_RING_BYTES = 48 << 20
_QUEUED = 4
_TICK = 0.2
_STOP_S = 2.0
_LONGEST_S = 120.0  # of an event that goes on and on; it continues in the next film
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 85)
_NAME = re.compile(r"(\d{6,})-\d{8}-\d{6}-.*\.avi")
_COMPARISON = re.compile(r"(\w+)\s*([<>])\s*(.*)")


@dataclass(frozen=True)
class Comparison:
    """`score<0.5`: a score, or one of a prediction's named values, below or above a bound."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:g}"

    def holds(self, prediction: Prediction) -> bool:
        """Whether it is so now; not where there is no such value."""
        known = {"score": prediction.score, "raw_score": prediction.raw_score, **prediction.values}
        value = known.get(self.name)
        if value is None or (self.name == "score" and not prediction.label):
            return False
        return value < self.bound if self.sign == "<" else value > self.bound


def parse_events(items: Iterable[str]) -> tuple[frozenset[str], tuple[Comparison, ...]]:
    """Labels (`*` is any) and comparisons. Raises SinkError."""
    labels, comparisons = set(), []
    for item in items:
        found = _COMPARISON.fullmatch(item)
        if not found:
            labels.add(item)
            continue
        name, sign, bound = found.groups()
        try:
            comparisons.append(Comparison(name, sign, float(bound)))
        except ValueError:
            raise SinkError(f"--clip-on {item}: '{bound}' is no number; write it like score<0.5") from None
    return frozenset(labels), tuple(comparisons)


class Trigger:
    """Says what begins with a prediction: a label that was not there before, or a comparison that did not hold."""

    def __init__(self, events: Iterable[str]) -> None:
        self._labels, self._comparisons = parse_events(events)
        self._holding: frozenset[str] = frozenset()

    def begins(self, prediction: Prediction) -> str:
        """The name of the event, or ''."""
        holding = {str(item) for item in self._comparisons if item.holds(prediction)}
        if prediction.label and not self._labels.isdisjoint((prediction.label, "*")):
            holding.add(prediction.label)
        fresh = sorted(holding - self._holding)
        self._holding = frozenset(holding)
        return fresh[0] if fresh else ""


@dataclass(frozen=True)
class _Shot:
    moment_ns: int
    jpeg: bytes
    size: tuple[int, int]


class _Ring:
    """The encoded images of the last seconds, all of one size, within a bound of memory."""

    def __init__(self, span_ns: int) -> None:
        self._span_ns = span_ns
        self._shots: deque[_Shot] = deque()
        self._bytes = 0

    def add(self, shot: _Shot) -> None:
        newest = self._shots[-1] if self._shots else shot
        if shot.size != newest.size or shot.moment_ns < newest.moment_ns:
            self.take()
        self._shots.append(shot)
        self._bytes += len(shot.jpeg)
        while self._bytes > _RING_BYTES or shot.moment_ns - self._shots[0].moment_ns > self._span_ns:
            self._bytes -= len(self._shots.popleft().jpeg)

    def take(self) -> list[_Shot]:
        """All of them, which are then no longer here."""
        shots = list(self._shots)
        self._shots.clear()
        self._bytes = 0
        return shots


class _Film:
    """A film being written; it has its name once it is whole."""

    def __init__(self, path: Path, event: str, first: _Shot) -> None:
        self.event = event
        self.size = first.size
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._first_ns = self.last_ns = first.moment_ns
        self._file = self._partial.open("wb", buffering=0)
        self._avi = AviWriter(self._file, first.size)

    @property
    def bytes(self) -> int:
        return self._avi.bytes_written

    @property
    def seconds(self) -> float:
        return (self.last_ns - self._first_ns) / 1e9

    def add(self, shot: _Shot) -> None:
        self._avi.add(shot.jpeg)
        self.last_ns = shot.moment_ns

    def finish(self) -> None:
        self._avi.finish((len(self._avi) - 1) / self.seconds if self.seconds > 0 else MAX_FPS)
        os.fsync(self._file.fileno())  # a power cut after the new name would leave an empty film
        self._file.close()
        os.replace(self._partial, self._path)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
            self._partial.unlink()


class _Shelf:
    """The films in a folder, oldest first, kept within a budget."""

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder = folder
        self._budget = budget
        self._films: deque[tuple[Path, int]] = deque()

    def look(self) -> int:
        """See what is there; the number after the newest."""
        found = sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
        self._films = deque((path, path.stat().st_size) for path in found)
        return int(found[-1].name.partition("-")[0]) + 1 if found else 1

    def has_room(self, wanted: int) -> bool:
        """Whether so many bytes fit, once old films have gone. Raises OSError."""
        while self._films and sum(size for _, size in self._films) + wanted > self._budget:
            path, _ = self._films.popleft()
            path.unlink(missing_ok=True)
        return wanted <= self._budget


class ClipSink(PredictionSink):
    """Keeps the last seconds as JPEG images in memory, and writes a film of them and of the next ones at an event.

    Images are encoded and written by a thread of its own: what it cannot take at once is left out of the film. An
    event during a film makes it longer. A full disk costs films, which are counted, never the run.

    Args:
        folder: for files such as `000012-20260131-142501-cat.avi`; made if it is not there. The number orders them,
            whatever the clock does.
        events: labels, `*` for any, and comparisons such as `score<0.5`.
        before: seconds in the film before the event.
        after: seconds after it.
        budget: bytes that the folder's films may take; the oldest go first.
        patient: wait for the thread instead of leaving images out (for files, whose frames can wait).

    Attributes:
        saved: films on the disk.
        lost: films that could not be written.
        skipped: images left out because the thread was behind.

    Raises:
        SinkError: an event cannot be understood.
    """

    def __init__(
        self,
        folder: Path,
        events: Iterable[str],
        before: float = 3.0,
        after: float = 5.0,
        budget: int = 500_000_000,
        patient: bool = False,
    ) -> None:
        self.saved = 0
        self.lost = 0
        self.skipped = 0
        self._folder = folder
        self._trigger = Trigger(events)
        self._after_ns = round(after * 1e9)
        self._patient = patient
        self._taken_ns = 0
        self._event = ""
        self._behind = False
        self._queue: queue.Queue[tuple[int, Image, str]] = queue.Queue(_QUEUED)
        self._ring = _Ring(round(before * 1e9))
        self._shelf = _Shelf(folder, budget)
        self._film: _Film | None = None
        self._end_ns = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="clips", daemon=True)

    def start(self) -> None:
        """Make sure that there is a folder to write into. Raises SinkError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for partial in self._folder.glob(".*.avi.partial"):  # of a run that was killed
                partial.unlink()
            probe = self._folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SinkError(
                f"cannot write clips into '{self._folder}': {error.strerror}; give --clips another place",
                denied=error.errno in (errno.EACCES, errno.EPERM, errno.EROFS),
            ) from error
        self._thread.start()

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Note what begins, and take the image if it is its turn."""
        self._event = self._trigger.begins(prediction) or self._event
        moment = trace.captured if frame.shot.moment_ns is None else frame.shot.moment_ns
        if 0 <= moment - self._taken_ns < _INTERVAL_NS and not self._event:
            return
        self._taken_ns = moment
        try:
            self._queue.put((moment, frame.view, self._event), self._patient and not self._behind, _STOP_S)
            self._behind, self._event = False, ""
        except queue.Full:
            self._behind = True
            self.skipped += 1  # an event waits for the next image

    def stop(self) -> None:
        """End a film that is being written."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        if self.lost:
            log.warning("%d clips could not be written", self.lost)

    # -- the thread

    def _serve(self) -> None:
        heard = time.monotonic_ns()
        while True:
            try:
                item = self._queue.get(timeout=0.0 if self._stopping.is_set() else _TICK)
            except queue.Empty:
                if self._stopping.is_set():
                    self._end_film()
                    return
                if time.monotonic_ns() - heard > self._after_ns:
                    self._end_film()  # the source is away: what it shows later is another film
                continue
            heard = time.monotonic_ns()
            try:
                self._take(*item)
            except (OSError, ValueError, MemoryError, cv2.error) as error:
                self._fail(error)

    def _take(self, moment: int, image: Image, event: str) -> None:
        _, encoded = cv2.imencode(".jpg", image.bgr(), _JPEG)
        shot = _Shot(moment, encoded.tobytes(), image.size)
        if (film := self._film) is not None and not self._belongs(shot, film):
            self._end_film()
        if self._film is None:
            self._ring.add(shot)
            if event:
                self._begin(event, shot)
            return
        if event:
            self._end_ns = moment + self._after_ns
        self._film.add(shot)
        if not self._shelf.has_room(self._film.bytes):
            self._end_film()

    def _belongs(self, shot: _Shot, film: _Film) -> bool:
        return (
            shot.size == film.size
            and film.last_ns <= shot.moment_ns <= self._end_ns
            and film.seconds < _LONGEST_S
            and film.bytes < MAX_BYTES
        )

    def _begin(self, event: str, at: _Shot) -> None:
        number = self._shelf.look()
        what = re.sub(r"[^\w.-]+", "_", event)[:40]
        name = f"{number:06d}-{time.strftime('%Y%m%d-%H%M%S')}-{what}.avi"
        self._end_ns = at.moment_ns + self._after_ns
        shots = self._ring.take()
        self._film = _Film(self._folder / name, event, shots[0])
        for shot in shots:
            if self._shelf.has_room(self._film.bytes + len(shot.jpeg)):
                self._film.add(shot)

    def _end_film(self) -> None:
        film, self._film = self._film, None
        if film is None:
            return
        try:
            film.finish()
        except OSError as error:
            self._film = film
            self._fail(error)
            return
        self.saved += 1
        log.info("clip of %.1f s saved: %s", film.seconds, film.event)

    def _fail(self, error: Exception) -> None:
        film, self._film = self._film, None
        if film is not None:
            film.abandon()
        self.lost += 1
        # The 1st, 2nd, 4th, 8th ... failure: a disk that stays full for weeks does not fill the journal too.
        if self.lost & (self.lost - 1) == 0:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error("cannot write a clip into '%s': %s; the run goes on (%d lost)", self._folder, reason, self.lost)
