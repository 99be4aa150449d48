"""Pictures of any size, format and orientation come out as they are; each cause of a failure has its own sentence."""

import json
import subprocess

import cv2
import numpy as np
import pytest

from camapp.capture.decode_errors import file_error
from camapp.capture.ffmpeg import libraries
from camapp.capture.libav import INVALID, NO_DECODER, DecodeError, upright_matrix
from camapp.capture.source import EndOfStream, SourceOptions, create_source
from camapp.core.errors import PermanentSourceError
from tests.programs import program


def ffmpeg(*arguments):
    subprocess.run([program("ffmpeg"), "-v", "error", "-y", *map(str, arguments)], check=True, timeout=30)


def film(path, *output, size="64x48", frames=3, colour="red"):
    """Write a film with a square in the upper left corner."""
    picture = f"color={colour}:size={size}:rate=10,drawbox=0:0:iw/4:ih/4:white:fill"
    ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", frames, *output, path)
    return path


def read_all(path, **options):
    source = create_source(str(path), SourceOptions(**options))
    source.open()
    shots = []
    try:
        while True:
            shots.append(source.read(1))
    except EndOfStream:
        return shots
    finally:
        source.close()


def test_opencv_has_brought_a_known_ffmpeg_along():
    assert len(libraries()) == 4


def corner_of(image):
    """Return (row, column) of the bright corner, each 0 or 1."""
    grey = image.gray().astype(int)
    corners = {(y, x): grey[-y * 4 or 3, -x * 4 or 3] for y in (0, 1) for x in (0, 1)}
    return max(corners, key=corners.get)


# The display matrix (a b 0 c d 0) and where the upper left corner of the stored picture is shown.
MATRICES = {
    "none": ((1, 0, 0, 1), (0, 0), (64, 48)),
    "90": ((0, 1, -1, 0), (0, 1), (48, 64)),
    "180": ((-1, 0, 0, -1), (1, 1), (64, 48)),
    "270": ((0, -1, 1, 0), (1, 0), (48, 64)),
    "mirrored": ((-1, 0, 0, 1), (0, 1), (64, 48)),
    "upside down": ((1, 0, 0, -1), (1, 0), (64, 48)),
    "transposed": ((0, 1, 1, 0), (0, 0), (48, 64)),
    "anti-transposed": ((0, -1, -1, 0), (1, 1), (48, 64)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_film_is_upright_whatever_its_display_matrix(tmp_path, name):
    matrix, corner, size = MATRICES[name]
    path = film(tmp_path / "film.mp4", "-pix_fmt", "yuv420p")
    content = bytearray(path.read_bytes())
    # tkhd of version 0: 40 bytes of other fields behind its name, then the matrix.
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    values = a, b, 0, c, d, 0, 0, 0, 1 << 30
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(content)
    image = read_all(path)[0].view
    assert image.size == size
    assert corner_of(image) == corner


def test_an_odd_angle_is_turned_to_the_nearest_right_one():
    def matrix(*values):
        return b"".join(int(value * 65536).to_bytes(4, "little", signed=True) for value in values)

    assert upright_matrix(matrix(0.2, 0.97, 0, -0.97, 0.2, 0, 0, 0, 1)) == (0, 1, -1, 0)
    assert upright_matrix(b"") == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("ratio", "size"), [("2/1", (128, 48)), ("1/2", (64, 96)), ("16/15", (68, 48)), ("1000/1", (64, 48))]
)
def test_pixels_that_are_not_square_are_stretched(tmp_path, ratio, size):
    path = film(tmp_path / "film.mp4", "-vf", f"setsar={ratio}", "-pix_fmt", "yuv420p")
    assert read_all(path)[0].view.size == size


@pytest.mark.parametrize("size", ["16x16", "18x14", "50x30", "66x50", "322x242"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p"])
def test_small_and_odd_sizes_have_the_right_colours_up_to_the_edge(tmp_path, size, pixels):
    path = tmp_path / "film.mkv"
    ffmpeg("-f", "lavfi", "-i", f"color=red:size={size}", "-frames:v", 1, "-c:v", "ffv1", "-pix_fmt", pixels, path)
    pixels = read_all(path)[0].view.rgb().astype(int)
    assert f"{pixels.shape[1]}x{pixels.shape[0]}" == size
    assert np.abs(pixels - (254, 0, 0)).max() <= 3


def joined(folder, suffix, *parts, frames=3):
    """Write films of (size, pixel format) one after another into one file of a format that allows it."""
    path = folder / f"film{suffix}"
    with path.open("wb") as file:
        for number, (size, *output) in enumerate(parts):
            file.write(film(folder / f"{number}{suffix}", *output, size=size, frames=frames).read_bytes())
    return path


H264 = "-c:v", "libx264", "-bf", "0", "-pix_fmt"
CHANGES = {
    "MJPEG": (".mjpeg", ("320x240", "-pix_fmt", "yuvj422p"), ("320x240", "-pix_fmt", "yuvj420p")),
    "MJPEG grows": (".mjpeg", ("64x48", "-pix_fmt", "yuvj420p"), ("320x240", "-pix_fmt", "yuvj444p")),
    "MJPEG shrinks": (".mjpeg", ("320x240", "-pix_fmt", "yuvj420p"), ("64x48", "-pix_fmt", "yuvj420p")),
    "H.264": (".h264", ("320x240", *H264, "yuv420p"), ("64x48", *H264, "yuv444p")),
    "MPEG-TS": (".ts", ("320x240", *H264, "yuv420p"), ("400x300", *H264, "yuv422p")),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_size_format_or_codec_is_reported_and_its_pictures_are_right(tmp_path, kind, caplog):
    suffix, *parts = CHANGES[kind]
    path = joined(tmp_path, suffix, *parts)
    shots = read_all(path)
    sizes = [tuple(map(int, size.split("x"))) for size, *_ in parts]
    assert [shot.view.size for shot in shots] == [sizes[0]] * 3 + [sizes[1]] * 3
    for shot in shots:
        assert corner_of(shot.view) == (0, 0)
        assert np.abs(shot.view.rgb()[-4, -4].astype(int) - (254, 0, 0)).max() < 12
    assert "film" in caplog.text
    assert " changes from " in caplog.text


def test_a_stream_that_continues_with_another_codec_is_followed(tmp_path, caplog):
    other = "320x240", "-c:v", "mpeg2video", "-mpegts_start_pid", "512"
    shots = read_all(joined(tmp_path, ".ts", ("320x240", *H264, "yuv420p"), other, frames=100))
    # FFmpeg drops some at the joint.
    assert len(shots) > 190
    assert "h264 yuv420p to 320x240 mpeg2video" in caplog.text


def test_every_frame_equals_that_of_opencv(tmp_path):
    path = film(tmp_path / "film.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", size="320x240", frames=20)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    for shot in read_all(path):
        assert np.array_equal(shot.view.bgr(), capture.read()[1])
    assert not capture.read()[0]


def test_music_with_a_cover_has_no_video(tmp_path):
    cover, song = tmp_path / "cover.png", tmp_path / "song.mp3"
    film(cover, frames=1)
    sound = "-f", "lavfi", "-i", "sine=duration=0.2"
    ffmpeg(*sound, "-i", cover, "-map", 0, "-map", 1, "-c:a", "libmp3lame", "-disposition:v", "attached_pic", song)
    with pytest.raises(PermanentSourceError, match="music with a cover picture"):
        read_all(song)
    ffmpeg("-i", song, "-map", "0:a", tmp_path / "bare.wav")
    with pytest.raises(PermanentSourceError, match="only sound"):
        read_all(tmp_path / "bare.wav")


@pytest.mark.parametrize(
    "error", [DecodeError("probe", NO_DECODER, "", "av1"), DecodeError("decode", INVALID, "", "av1")]
)
def test_a_codec_without_a_decoder_is_named_with_the_remedy(tmp_path, error):
    assert "as av1" in str(file_error(tmp_path / "x.mp4", error))
    assert "-c:v libx264" in str(file_error(tmp_path / "x.mp4", error))


def test_av1_is_decoded_or_named(tmp_path):
    encoders = subprocess.run(
        [program("ffmpeg"), "-encoders"], capture_output=True, text=True, check=False, timeout=30
    ).stdout
    if "libsvtav1" not in encoders:
        pytest.skip("this ffmpeg has no AV1 encoder")
    path = film(tmp_path / "film.mp4", "-c:v", "libsvtav1", "-pix_fmt", "yuv420p", size="128x96", frames=30)
    source = create_source(str(path), SourceOptions())
    try:
        source.open()
    except PermanentSourceError as error:
        reason = str(error)
    else:
        reason = "is compressed as av1"
        assert len(read_all(path)) == 30
    assert "is compressed as av1" in reason


def test_a_recording_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path, caplog):
    path = film(tmp_path / "film.mkv", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert 5 < len(read_all(path)) < 20


def test_a_job_survives_its_way_as_json():
    from dataclasses import asdict

    from camapp.capture.decoder_process import Job

    job = Job("file:/b\xe4d", ["a"], {"rtsp_flags": "prefer_tcp"})
    assert Job(**json.loads(json.dumps(asdict(job)))).url == job.url
