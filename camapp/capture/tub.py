"""Plays a donkeycar tub (`tub:FOLDER`): a recorded drive of frames, with the steering of the person who drove."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camapp.capture.clock import Pace
from camapp.capture.images import read_image
from camapp.capture.source import EndOfStream, Source, SourceOptions, local_path, sane_fps
from camapp.core.errors import PermanentSourceError, SourceDenied
from camapp.core.files import natural_key
from camapp.core.frames import Shot, Truth
from camapp.core.ground_camera import GroundCamera
from camapp.core.image import Image, fit_within, silence_opencv
from camapp.core.image_ops import resize

log = logging.getLogger(__name__)

# Donkeycar's rate, for a tub without time stamps.
_DEFAULT_FPS = 20.0
# Longest time between two records that is kept, in seconds: deleted records and new sessions leave gaps of any length.
_LONGEST_GAP_S = 1.0
# Likewise for the exact time stamps of `--record-drive`, whose gaps are times without a camera.
_LONGEST_PAUSE_S = 3600.0
# A record longer than this is damage, in bytes.
_MAX_LINE = 1 << 20
IMAGE = "cam/image_array"
# Keys of `--record-drive`. In a record: nanoseconds of the frame, (width, height) of the image that was shown, and the
# camera, if the source knew it; in the manifest's metadata: what the task knew of the camera at the start.
MOMENT, VIEW, CAMERA, LEARNED = "camapp/moment_ns", "camapp/view", "camapp/camera", "camapp/learned"
# Value of the truth -> its key in a record: what the person did, -1 (left) to 1 (right), and -1 to 1.
TRUTHS = {"angle": "user/angle", "throttle": "user/throttle"}


@dataclass(frozen=True, slots=True)
class TubRecord:
    """A frame of a drive.

    Attributes:
        image: its file.
        media_s: its time since the first record, seconds; increasing.
        values: `angle` and `throttle` of the person, those that are recorded.
        moment_ns: its time for filters, in a tub of `--record-drive`.
        view: (width, height) of the image that was shown, if it was another one than the model's.
        camera: the camera over the ground, if the source knew it.
    """

    image: Path
    media_s: float
    values: dict[str, float]
    moment_ns: int | None = None
    view: tuple[int, int] | None = None
    camera: GroundCamera | None = None


def read_tub(folder: Path) -> tuple[list[TubRecord], str]:
    """Return the records of a tub in order, and what of it cannot be used, "" if all can.

    Deleted records are left out. A tub that is still written, or whose writing was cut short, is read to its last whole
    record.

    Raises:
        PermanentSourceError: it is no tub, or no record can be used.
        SourceDenied: this user may not read it.
    """
    try:
        names = sorted(os.listdir(folder), key=natural_key)
        # Version 2 keeps its records in catalogs, version 1 each in a file beside the images.
        catalogs = [folder / name for name in names if name.endswith(".catalog")]
        images = folder / "images" if catalogs else folder
        files = catalogs or [folder / name for name in names if name.startswith("record_") and name.endswith(".json")]
        if not files:
            raise PermanentSourceError(f"{folder} is no donkeycar tub: there is no catalog_0.catalog in it")
        lines = list(_lines(files))
        deleted, fault = _deleted(folder / "manifest.json")
        present = set(os.listdir(images)) if images.is_dir() else set()
    except PermissionError as error:
        raise SourceDenied(f"tub {folder} may not be read by this user: {error.filename}") from error
    except OSError as error:
        raise PermanentSourceError(f"tub {folder} cannot be read: {error.strerror} ({error.filename})") from error
    raws = [(number, raw) for number, raw in enumerate(lines) if raw is not None]
    wanted = [raw for number, raw in raws if raw.get("_index", number) not in deleted]
    found = [raw for raw in wanted if raw[IMAGE] in present]
    counts = {"broken lines": len(lines) - len(raws), "missing images": len(wanted) - len(found)}
    faults = "; ".join([fault] * bool(fault) + [f"{count} {what}" for what, count in counts.items() if count])
    if not found:
        raise PermanentSourceError(f"tub {folder} has no frame that can be played: {faults or 'it is empty'}")
    return [_record(raw, images, time) for raw, time in zip(found, _times(found), strict=True)], faults


def _deleted(manifest: Path) -> tuple[frozenset[Any], str]:
    """Return the indexes of the deleted records, and why they are unknown, if they are."""
    try:
        lines = manifest.read_text("utf-8").split("\n")
        return frozenset(json.loads(lines[4])["deleted_indexes"]), ""
    except FileNotFoundError:
        return frozenset(), ""
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return frozenset(), "manifest.json is damaged, so that deleted records are played too"


def _lines(files: list[Path]) -> Iterator[dict[str, Any] | None]:
    """Yield each record of catalogs, or of files with one record each; None for a broken one."""
    for path in files:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE):
                if line.strip():
                    yield _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    # A name with a folder could lead out of the tub.
    is_good = isinstance(raw, dict) and isinstance(name := raw.get(IMAGE), str) and os.path.basename(name) == name
    is_good = is_good and isinstance(raw.get("_index", 0), int)
    return raw if is_good else None


def _times(raws: list[dict[str, Any]]) -> list[float]:
    """Return the seconds of records since the first; steps that cannot be are replaced by the usual one."""
    steps = np.diff([_number(raw, "_timestamp_ms", "milliseconds") for raw in raws]) / 1e3
    good = steps[(steps > 0) & (steps < _LONGEST_GAP_S)]
    usual = float(np.median(good)) if len(good) else 1 / _DEFAULT_FPS
    steps = np.where(steps > 0, np.minimum(steps, _LONGEST_GAP_S), usual)
    # Those of `--record-drive` are exact.
    exact = np.diff([_number(raw, MOMENT) for raw in raws]) / 1e9
    steps = np.where((exact > 0) & (exact < _LONGEST_PAUSE_S), exact, steps)
    return [0.0, *np.cumsum(steps).tolist()]


def _number(raw: dict[str, Any], *keys: str) -> float:
    """Return the number of the first key that a record has; NaN if there is none."""
    value = next((raw[key] for key in keys if key in raw), None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if is_number else math.nan  # type: ignore[arg-type]


def _record(raw: dict[str, Any], images: Path, media_s: float) -> TubRecord:
    numbers = {name: _number(raw, key) for name, key in TRUTHS.items()}
    moment, view = raw.get(MOMENT), raw.get(VIEW)
    is_size = isinstance(view, list) and len(view) == 2 and all(isinstance(n, int) and 0 < n <= 16384 for n in view)
    return TubRecord(
        images / raw[IMAGE],
        media_s,
        {name: value for name, value in numbers.items() if math.isfinite(value)},
        moment if isinstance(moment, int) and 0 <= moment < 1 << 63 else None,
        (view[0], view[1]) if is_size else None,  # type: ignore[index]
        _camera(raw[CAMERA]) if CAMERA in raw else None,
    )


def _camera(fields: Any) -> GroundCamera | None:
    """Return the camera that `dataclasses.asdict` has turned into JSON; None if it is damaged."""
    try:
        pairs: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return GroundCamera(**pairs)
    except (AttributeError, TypeError, ValueError):
        return None


class TubSource(Source):
    """Plays the records of a tub: every frame as fast as possible, or in realtime by their time stamps.

    The person's steering and throttle are the truth of a frame: `Truth.values` has `angle` and `throttle`. In realtime
    it behaves like a camera: frames that were not read in time are skipped.

    Attributes:
        skipped: number of images that could not be decoded.
    """

    finite = True
    regular = False

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self.live = bool(options.realtime)
        self.skipped = 0
        self._folder = local_path(uri)
        self._records: list[TubRecord] = []
        self._next = self._failed = 0
        self._media_s = self._round_s = 0.0
        self._waiting: Shot | None = None
        self._pace = Pace()

    def open(self) -> None:
        """Read the catalogs and the first frame. Raises PermanentSourceError or SourceDenied."""
        silence_opencv()
        self._records, faults = read_tub(self._folder)
        if faults:
            log.warning("%s: %s; the other %d records are played", self.describe(), faults, len(self._records))
        self._next = self._failed = self.skipped = 0
        self._round_s = 0.0
        steps = np.diff([record.media_s for record in self._records])
        self.fps = sane_fps(1 / float(np.median(steps))) if len(steps) else _DEFAULT_FPS
        self._pace = Pace()
        self._pace.rebase(0.0)
        self._waiting = self._load()

    def read(self, timeout: float) -> Shot:
        """Return the next frame; in realtime the next that is not late, at its due time."""
        shot = self._waiting or self._load()
        self._waiting = None
        if self.live:
            self._pace.wait(self._media_s, self.stopping)
        return shot

    def resume(self) -> None:
        """Make the next frame due now."""
        behind = self._waiting is None and self._next < len(self._records)
        self._pace.rebase(self._round_s + self._records[self._next].media_s if behind else self._media_s)

    def close(self) -> None:
        """Forget the records; a second line of the log says how many images were damaged."""
        if self.skipped > 1:
            log.warning("%s: %d damaged images were left out", self.describe(), self.skipped)
        self._records, self._waiting, self.skipped = [], None, 0

    @property
    def learned(self) -> dict[str, float]:
        """Return what the task knew of the camera when the drive was recorded, so that a replay measures the same."""
        try:
            kept = json.loads((self._folder / "manifest.json").read_text("utf-8").split("\n")[2])[LEARNED]
            return {name: float(value) for name, value in kept.items() if math.isfinite(value)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            # Donkeycar's own tubs have none.
            return {}

    def describe(self) -> str:
        """Return such as 'tub drives/monday, 900 records'."""
        return f"tub {self._folder}" + (f", {len(self._records)} records" if self._records else "")

    def _load(self) -> Shot:
        while True:
            if self._next == len(self._records):
                self._rewind()
            record = self._records[self._next]
            self._next += 1
            self._media_s = self._round_s + record.media_s
            if self.live and self._is_late():
                continue
            try:
                image = read_image(record.image)
            except (OSError, ValueError) as error:
                self._skip(record.image, error)
            else:
                self._failed = 0
                return self._shot(record, image)

    def _skip(self, path: Path, error: Exception) -> None:
        """Count an image that cannot be decoded. Raises PermanentSourceError if none of the tub can be."""
        self.skipped += 1
        self._failed += 1
        if self._failed >= len(self._records):
            raise PermanentSourceError(f"{self.describe()}: none of the images can be decoded; {path}: {error}")
        if self.skipped == 1:
            log.warning("skipped %s: %s (further ones are counted)", path, error)

    def _shot(self, record: TubRecord, image: Image) -> Shot:
        view = image
        if record.view is not None and record.view != image.size:
            view = Image.of(resize(image.data, record.view), image.layout)
        fitted = fit_within(view, self.options.size)
        model_view = fitted if view is image else image
        truth = Truth(values=record.values) if record.values else None
        moment = round(self._media_s * 1e9)
        if record.moment_ns is not None and not self._round_s:
            moment = record.moment_ns
        due = self._pace.due_ns(self._media_s) if self.live else 0
        return Shot(fitted, model_view, due, truth, record.image.name, moment, camera=record.camera)

    def _is_late(self) -> bool:
        """Return whether the next record is due already, if there is one."""
        if self._next == len(self._records):
            return False
        return self._pace.lateness(self._round_s + self._records[self._next].media_s) > 0

    def _rewind(self) -> None:
        """Start again, in a loop; raise EndOfStream otherwise."""
        if not self.options.loop:
            raise EndOfStream
        self._next = 0
        self._round_s += self._records[-1].media_s + 1 / self.fps
