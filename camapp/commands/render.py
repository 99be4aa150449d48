"""`camapp render` writes a synthetic scene as a video file, with the ground truth of each image beside it."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import IO

from camapp.capture.pattern import PatternSource
from camapp.capture.source import SourceOptions, create_source
from camapp.commands.calibrate_track import store
from camapp.core.arrays import Pixels
from camapp.core.errors import SettingsError
from camapp.core.image import silence_opencv
from camapp.core.json_records import truth_record
from camapp.sinks.encoders import Encoder, EncoderError, JpegEncoder, open_encoder
from camapp.sinks.film_files import SUFFIXES, AnyWriter, writer_for

# Longest wait for the encoder's last images, in seconds.
_FINISH_S = 60.0


def run_render(uri: str, video: Path, seconds: float | None) -> str:
    """Write the video and return the line to print.

    Args:
        uri: `pattern://...`.
        video: the file; beside it are written a `.truth.jsonl`, a line for each image, and for a track a `.toml` with
            the settings of its camera.
        seconds: duration; None is one lap of a track, else 10 s.

    Raises:
        SettingsError: the URI is no scene, the file no video, or a file cannot be written.
        PermanentSourceError: the options of the scene are wrong.
    """
    if video.suffix.lower() not in SUFFIXES:
        raise SettingsError(f"{video}: the name of a video ends in {' or '.join(SUFFIXES)}")
    if not uri.startswith("pattern://"):
        raise SettingsError(f"'{uri}': only synthetic scenes, such as pattern://track?seed=1, have ground truth")
    silence_opencv()
    source = create_source(uri, SourceOptions(realtime=False))
    assert isinstance(source, PatternSource)
    source.open()
    scene, rate = source.scene, source.fps
    images = max(1, round((seconds or scene.seconds) * rate))
    truth = video.with_suffix(".truth.jsonl")
    partial = [path.with_name(f".{path.stem}.partial{path.suffix}") for path in (video, truth)]
    try:
        _write(source, images, *partial)
        for written, path in zip(partial, (video, truth), strict=True):
            os.replace(written, path)
        if scene.camera is not None:
            store(scene.camera, video.with_suffix(".toml"))
    except OSError as error:
        raise SettingsError(f"{video}: {error.strerror or error}") from error
    except EncoderError as error:
        raise SettingsError(f"{video}: {error}") from error
    finally:
        source.close()
        for path in partial:
            path.unlink(missing_ok=True)
    camera = f", {video.with_suffix('.toml')}: settings of the camera, for --config" if scene.camera is not None else ""
    return f"{video}: {images} images at {rate:g} a second; {truth}: their ground truth{camera}"


def _write(source: PatternSource, images: int, video: Path, truth: Path) -> None:
    """Write both files. Raises OSError, EncoderError."""
    with video.open("wb", buffering=0) as file, truth.open("w", encoding="utf-8") as lines:
        film: _Film | None = None
        for number in range(images):
            shot = source.read(1.0)
            film = film or _Film(file, video.suffix.lower(), shot.view.size, source.fps)
            film.write(shot.view.bgr())
            assert shot.truth is not None
            json.dump({"frame": number, "seconds": round(number / source.fps, 4)} | truth_record(shot.truth), lines)
            lines.write("\n")
        if film is not None:
            film.finish()


class _Film:
    """Encodes images and writes them to one file."""

    def __init__(self, file: IO[bytes], suffix: str, size: tuple[int, int], fps: float) -> None:
        even = size[0] & ~1, size[1] & ~1
        self._encoder: Encoder = JpegEncoder(self._add) if suffix == ".avi" else open_encoder(even, fps, self._add)
        # The codecs of MP4 halve the resolution of the colour, so sides must be even.
        self._size = size if suffix == ".avi" else even
        self._open = partial(writer_for, file, self._encoder.codec, self._size, fps)
        self._writer: AnyWriter | None = None

    def write(self, image: Pixels) -> None:
        width, height = self._size
        self._encoder.write(image[:height, :width])
        if self._encoder.error is not None:
            raise self._encoder.error

    def finish(self) -> None:
        self._encoder.finish(_FINISH_S)
        if self._encoder.error is not None:
            raise self._encoder.error
        if self._writer is not None:
            self._writer.finish()

    def _add(self, data: bytes) -> None:
        self._writer = self._writer or self._open(data)
        self._writer.add(data)
