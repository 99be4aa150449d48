"""`camapp film`: a generated scene as a video file, with the truth of each image beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2

from camapp.capture.pattern import PatternSource
from camapp.capture.source import SourceOptions, create_source
from camapp.commands.calibrate_track import store
from camapp.core.errors import SettingsError
from camapp.core.image import silence_opencv
from camapp.core.json_records import truth_record
from camapp.sinks.video import CODECS


def run_render(uri: str, film: Path, seconds: float | None) -> str:
    """What the command does; the line to print.

    Args:
        uri: `pattern://...`.
        film: the video; beside it come a `.truth.jsonl`, a line an image, and of a track a `.toml`, its camera.
        seconds: how long; None is once round where the scene has an end, else ten.

    Raises:
        SettingsError: that is no scene or no video's name, or the files cannot be written.
        PermanentSourceError: the scene's options are wrong.
    """
    if film.suffix.lower() not in CODECS:
        raise SettingsError(f"{film}: the name of a film ends in {' or '.join(CODECS)}")
    if not uri.startswith("pattern://"):
        raise SettingsError(f"'{uri}': only generated scenes, such as pattern://track?seed=1, know their truth")
    silence_opencv()
    source = create_source(uri, SourceOptions(realtime=False))
    assert isinstance(source, PatternSource)
    source.open()
    scene, rate = source.scene, source.fps
    images = max(1, round((seconds or scene.seconds) * rate))
    truth = film.with_suffix(".truth.jsonl")
    partial = [path.with_name(f".{path.stem}.partial{path.suffix}") for path in (film, truth)]
    try:
        _write(source, images, *partial)
        _check_whole(partial[0], images)
        for written, path in zip(partial, (film, truth), strict=True):
            os.replace(written, path)
        if scene.camera is not None:
            store(scene.camera, film.with_suffix(".toml"))
    except OSError as error:
        raise SettingsError(f"{film}: {error.strerror or error}") from error
    finally:
        source.close()
        for path in partial:
            path.unlink(missing_ok=True)
    camera = f", {film.with_suffix('.toml')}: the camera's settings, for --config" if scene.camera is not None else ""
    return f"{film}: {images} images at {rate:g} a second; {truth}: their truth{camera}"


def _check_whole(film: Path, images: int) -> None:
    """OpenCV says nothing of what it could not write: a film on a full disk has no end, or fewer images."""
    reader = cv2.VideoCapture(str(film))
    found = sum(1 for _ in iter(reader.grab, False))
    reader.release()
    if found != images:
        raise OSError(f"only {found} of {images} images could be written; is the disk full?")


def _write(source: PatternSource, images: int, film: Path, truth: Path) -> None:
    film.touch()  # OpenCV does not say why it cannot write
    writer: cv2.VideoWriter | None = None
    code = cv2.VideoWriter.fourcc(*CODECS[film.suffix.lower()])
    try:
        with truth.open("w", encoding="utf-8") as lines:
            for number in range(images):
                shot = source.read(1.0)
                writer = writer or cv2.VideoWriter(str(film), code, source.fps, shot.view.size)
                writer.write(shot.view.bgr())
                assert shot.truth is not None  # scenes know theirs
                json.dump({"frame": number, "seconds": round(number / source.fps, 4)} | truth_record(shot.truth), lines)
                lines.write("\n")
    finally:
        if writer is not None:
            writer.release()
