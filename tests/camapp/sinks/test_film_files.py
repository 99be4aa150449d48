"""The files of a recording: playable at any moment, finished later, of bounded size and memory."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.core.errors import SinkError
from camapp.sinks import avi, mp4
from camapp.sinks.encoders import Encoder, JpegEncoder, OpenCvEncoder, h264_encoder, open_encoder
from camapp.sinks.film_files import FilmFiles, expanded
from camapp.sinks.mp4 import H264, Codec, Mpeg4
from camapp.system.process import rss_bytes

SIZE, FPS = (64, 64), 10.0
KINDS = ["h264", "mpeg4", "jpeg"]


def encoded(kind: str, count: int = 45, step: int = 5) -> tuple[list[bytes], Codec | None]:
    """Return images of increasing brightness as an encoder gives them."""
    if kind == "h264" and not h264_encoder():
        pytest.skip("needs ffmpeg with an H.264 encoder")
    images: list[bytes] = []
    encoder: Encoder = JpegEncoder(images.append)
    if kind != "jpeg":
        encoder = open_encoder(SIZE, FPS, images.append, kind == "h264")
        assert isinstance(encoder, OpenCvEncoder) == (kind == "mpeg4")
    for number in range(count):
        encoder.write(np.full((SIZE[1], SIZE[0], 3), step * number, np.uint8))
    encoder.finish(30)
    assert len(images) == count
    return images, encoder.codec


def files_for(path: Path, codec: Codec | None, **options: float) -> FilmFiles:
    files = FilmFiles(path, "test", **options)
    files.start()
    files.begin(codec, SIZE, FPS)
    return files


def number_of(frame: np.ndarray) -> int:
    # MPEG-4 Visual darkens these images by 2.3 to 3.7.
    return int((float(frame.mean()) + 3.9) / 5)


def numbers(path: Path) -> list[int]:
    """Return the numbers of the frames, from their brightness."""
    video = cv2.VideoCapture(str(path))
    found = []
    while (read := video.read())[0]:
        found.append(number_of(read[1]))
    video.release()
    return found


def add_all(files: FilmFiles, images: Iterable[bytes]) -> None:
    for image in images:
        files.add(image)


def suffix_of(kind: str) -> str:
    return ".avi" if kind == "jpeg" else ".mp4"


@pytest.mark.parametrize("kind", KINDS)
def test_a_film_is_playable_at_any_moment_and_can_be_searched_in_the_end(tmp_path: Path, kind: str) -> None:
    images, codec = encoded(kind)
    path = tmp_path / f"film{suffix_of(kind)}"
    files = files_for(path, codec)
    for number, image in enumerate(images):
        files.add(image)
        if number in (1, 20, 44):
            seen = numbers(path)
            # A fragment lasts from one key image to the next, at least a second.
            assert number - 25 <= len(seen) <= number + 1
            assert seen == list(range(len(seen)))
    files.close()
    assert numbers(path) == list(range(45))
    video = cv2.VideoCapture(str(path))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (45, FPS)
    video.set(cv2.CAP_PROP_POS_FRAMES, 30)
    assert number_of(video.read()[1]) == 30
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_ffprobe_finds_nothing_to_complain_about(tmp_path: Path, kind: str) -> None:
    if shutil.which("ffprobe") is None:
        pytest.skip("needs ffprobe")
    images, codec = encoded(kind)
    path, unfinished = tmp_path / f"film{suffix_of(kind)}", tmp_path / f"unfinished{suffix_of(kind)}"
    files = files_for(path, codec)
    add_all(files, images)
    shutil.copy(path, unfinished)
    files.close()
    names = {"h264": "h264", "mpeg4": "mpeg4", "jpeg": "mjpeg"}
    for film in (path, unfinished):
        # It misses the end of JPEG images that are all black, in any container, and decodes them all the same.
        level = "fatal" if kind == "jpeg" else "warning"
        command = ["ffprobe", "-v", level, "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0"]
        done = subprocess.run([*command, film], capture_output=True, text=True, timeout=20)
        assert (done.stdout.strip(), done.stderr) == (f"{names[kind]},64,64", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_anywhere_is_finished_with_all_its_whole_parts(tmp_path: Path, kind: str) -> None:
    images, codec = encoded(kind)
    path = tmp_path / f"film{suffix_of(kind)}"
    files = files_for(path, codec)
    add_all(files, images)
    whole = path.read_bytes()
    files.close()
    finish = (avi if kind == "jpeg" else mp4).finish_left_file
    cut, counts = tmp_path / f"cut{suffix_of(kind)}", []
    for end in np.linspace(0, len(whole), 40).astype(int):
        cut.write_bytes(whole[:end])
        count = finish(cut)
        counts.append(count or 0)
        if count:
            assert numbers(cut) == list(range(count))
            assert finish(cut) is None, "it is finished"
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] > 20


@pytest.mark.parametrize("content", [b"", b"text", b"RIFF" + bytes(300), bytes(64), b"\0\0\0\x20ftypisom" + bytes(90)])
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    for module, name in ((mp4, "x.mp4"), (avi, "x.avi")):
        (tmp_path / name).write_bytes(content)
        assert module.finish_left_file(tmp_path / name) is None
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_film_continues_in_further_files_at_key_images(tmp_path: Path, kind: str) -> None:
    images, codec = encoded(kind)
    files = files_for(tmp_path / f"film{suffix_of(kind)}", codec, longest_s=1.5)
    add_all(files, images)
    files.close()
    parts = [numbers(path) for path in sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)]
    assert len(parts) >= 2
    assert list(itertools.chain(*parts)) == list(range(45))


def test_codes_of_strftime_give_a_file_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    images, codec = encoded("jpeg", 3)
    pattern = tmp_path / "%Y" / "%m-%d_100%%.avi"
    for _ in range(2):
        files = files_for(pattern, codec)
        with pytest.raises(SinkError, match="writes it"):
            FilmFiles(pattern).start()
        files.add(images[0])
        files.close()
    today = time.strftime("%m-%d_100%%")
    assert sorted(os.listdir(tmp_path / time.strftime("%Y"))) == [f"{today}-2.avi", f"{today}.avi"]
    assert os.listdir(tmp_path) == [time.strftime("%Y")]
    assert expanded(Path("a\udce4%.avi")) in (Path("a\udce4%.avi"), Path("a\udce4.avi"))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root, to mount a small disk")
@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_on_a_full_disk_can_be_played(tmp_path: Path, kind: str) -> None:
    images, codec = encoded(kind)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        files = files_for(disk / f"film{suffix_of(kind)}", codec)
        (disk / "ballast").write_bytes(bytes(28 << 10))
        with pytest.raises(OSError, match="No space left"):
            add_all(files, itertools.cycle(images))
        files.close()
        seen = numbers(disk / f"film{suffix_of(kind)}")
        assert len(seen) > 5
        assert [number % 45 for number in range(len(seen))] == seen
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_key_images_are_recognised() -> None:
    for kind, codec in (("h264", H264()), ("mpeg4", Mpeg4())):
        if kind == "h264" and not h264_encoder():
            continue
        images, _ = encoded(kind, step=0)
        keys = [number for number, image in enumerate(images) if codec.is_key(image)]
        assert keys[0] == 0
        assert 3 <= len(keys) <= 10, keys
    with pytest.raises(ValueError, match="no parameter sets"):
        H264().entry(b"\0\0\1\x65data", SIZE)


@pytest.mark.slow
def test_the_memory_of_a_recorded_day_is_flat(tmp_path: Path) -> None:
    images, codec = encoded("mpeg4", 24)
    files = files_for(tmp_path / "film.mp4", codec)
    begin = 0
    for number in range(24 * 3600 * 10):
        files.add(images[number % len(images)])
        if number == 3600 * 10:
            begin = rss_bytes([os.getpid()])
    grown = rss_bytes([os.getpid()]) - begin
    files.close()
    assert len(os.listdir(tmp_path)) == 25 - 1
    assert grown < 5_000_000
