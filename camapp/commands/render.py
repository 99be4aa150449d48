"""`camapp render` writes a synthetic scene as a video file, with the ground truth of each image beside it."""

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
    if video.suffix.lower() not in CODECS:
        raise SettingsError(f"{video}: the name of a video ends in {' or '.join(CODECS)}")
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
        _check_whole(partial[0], images)
        for written, path in zip(partial, (video, truth), strict=True):
            os.replace(written, path)
        if scene.camera is not None:
            store(scene.camera, video.with_suffix(".toml"))
    except OSError as error:
        raise SettingsError(f"{video}: {error.strerror or error}") from error
    finally:
        source.close()
        for path in partial:
            path.unlink(missing_ok=True)
    camera = f", {video.with_suffix('.toml')}: settings of the camera, for --config" if scene.camera is not None else ""
    return f"{video}: {images} images at {rate:g} a second; {truth}: their ground truth{camera}"


def _check_whole(video: Path, images: int) -> None:
    """Raise OSError if images are missing: OpenCV does not report that a disk is full."""
    reader = cv2.VideoCapture(str(video))
    found = sum(1 for _ in iter(reader.grab, False))
    reader.release()
    if found != images:
        raise OSError(f"only {found} of {images} images could be written; is the disk full?")


def _write(source: PatternSource, images: int, video: Path, truth: Path) -> None:
    # Raises the reason if the file cannot be written; OpenCV gives none.
    video.touch()
    writer: cv2.VideoWriter | None = None
    code = cv2.VideoWriter.fourcc(*CODECS[video.suffix.lower()])
    try:
        with truth.open("w", encoding="utf-8") as lines:
            for number in range(images):
                shot = source.read(1.0)
                writer = writer or cv2.VideoWriter(str(video), code, source.fps, shot.view.size)
                writer.write(shot.view.bgr())
                assert shot.truth is not None
                json.dump({"frame": number, "seconds": round(number / source.fps, 4)} | truth_record(shot.truth), lines)
                lines.write("\n")
    finally:
        if writer is not None:
            writer.release()
