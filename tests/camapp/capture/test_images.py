"""Image files of all kinds are read as 8-bit images, or skipped with a reason."""

import inspect
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.capture import still_process
from camapp.capture.exif import orientation_of
from camapp.capture.foreign_images import decode_foreign
from camapp.capture.images import ImagesSource, decode_image, read_image, walk_images
from camapp.capture.orientation import Orientation
from camapp.capture.source import EndOfStream, SourceOptions, scheme_of
from camapp.core.errors import PermanentSourceError, SourceDenied
from camapp.core.image import Layout


def write(path, array):
    assert cv2.imwrite(str(path), array)
    return path


def solid(value=128, size=(6, 8, 3), dtype=np.uint8):
    return np.full(size, value, dtype)


def opened(uri, **options):
    source = ImagesSource(str(uri), SourceOptions(**options))
    source.open()
    return source


def names(source):
    found = []
    try:
        while True:
            found.append(source.read(1).name)
    except EndOfStream:
        return found


def png(width, height, colour_type, depth, rows):
    """Return a PNG of a kind that cv2.imwrite does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_orientation(jpeg, orientation):
    """Return the bytes of a JPEG with an EXIF orientation tag."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def test_a_transparent_pixel_shows_white_and_a_half_transparent_one_mixes(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 128, 255
    image = read_image(write(tmp_path / "a.png", pixels))
    assert image.layout is Layout.BGR
    assert image.data[0, :, 0].tolist() == [255, 127, 0]


def test_grey_with_alpha_is_blended_over_white(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 4, 8, bytes([0, 10, 255, 10, 0])))
    assert read_image(path).gray().tolist() == [[10, 255]]


def test_sixteen_bits_become_eight_and_white_stays_white(tmp_path):
    path = write(tmp_path / "a.png", np.array([[0, 257 * 100, 65535]], np.uint16))
    image = read_image(path)
    assert image.layout is Layout.GRAY
    assert image.data.dtype == np.uint8
    assert image.data.tolist() == [[0, 100, 255]]


def test_sixteen_bit_alpha_works_too(tmp_path):
    pixels = np.zeros((1, 2, 4), np.uint16)
    pixels[0, 1, 3] = 65535
    assert read_image(write(tmp_path / "a.png", pixels)).data[0, :, 0].tolist() == [255, 0]


def test_grey_stays_grey(tmp_path):
    image = read_image(write(tmp_path / "a.png", solid(7, (5, 4))))
    assert (image.layout, image.size) == (Layout.GRAY, (4, 5))


def test_an_image_may_have_one_pixel(tmp_path):
    assert read_image(write(tmp_path / "a.png", solid(7, (1, 1, 3)))).size == (1, 1)


def test_colours_are_in_the_right_channels(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:] = 40, 60, 200  # B, G, R
    for suffix in (".png", ".bmp", ".ppm", ".webp", ".tiff"):
        image = read_image(write(tmp_path / f"a{suffix}", pixels))
        assert np.abs(image.rgb()[0, 0].astype(int) - (200, 60, 40)).max() <= 4, suffix


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
def test_a_photo_is_rotated_by_its_exif_orientation(tmp_path, orientation, corner):
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:16, :32] = 255
    _, jpeg = cv2.imencode(".jpg", pixels)
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(jpeg.tobytes(), orientation))
    image = read_image(path)
    assert image.size == ((32, 64) if orientation in (6, 8) else (64, 32))
    row, column = (0.25 + 0.5 * half for half in corner)
    assert image.gray()[int(row * image.height), int(column * image.width)] > 250
    assert (image.gray() > 128).mean() == pytest.approx(0.25, abs=0.02)


ORIENTED = {  # the corner (row, column) that shows the stored picture's upper left one
    **{1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0)},
    **{5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)},
}


def corner_picture(alpha=False):
    picture = np.zeros((40, 60, 4 if alpha else 3), np.uint8)
    picture[:10, :10] = 255
    if alpha:
        picture[..., 3] = 255
    return picture


def exif_of(orientation, order="<"):
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)


def oriented(kind, orientation):
    """Return a picture file with an EXIF orientation."""
    if kind in ("jpg", "big-endian.jpg"):
        data = cv2.imencode(".jpg", corner_picture())[1].tobytes()
        body = b"Exif\0\0" + exif_of(orientation, ">" if kind != "jpg" else "<")
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if kind in ("png", "alpha.png"):
        data = cv2.imencode(".png", corner_picture(kind != "png"))[1].tobytes()
        body = b"eXIf" + exif_of(orientation)
        end = data.index(b"IEND") - 4
        return data[:end] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[end:]
    data = cv2.imencode(".webp", corner_picture(), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    # The extended header: its flag for EXIF data, and the size less one.
    extended = b"VP8X" + struct.pack("<II", 10, 8) + (59).to_bytes(3, "little") + (39).to_bytes(3, "little")
    exif = exif_of(orientation)
    chunks = b"WEBP" + extended + data[12:] + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", ["jpg", "big-endian.jpg", "png", "alpha.png", "webp"])
def test_every_format_is_upright_by_its_exif_orientation(kind, orientation):
    image = decode_image(oriented(kind, orientation))
    assert image.size == ((60, 40) if orientation < 5 else (40, 60))
    grey = image.gray()
    bright = [(y, x) for y in (0, 1) for x in (0, 1) if grey[-y * 5 or 4, -x * 5 or 4] > 128]
    assert bright == [ORIENTED[orientation]]


def test_damaged_exif_data_turns_nothing():
    good = oriented("jpg", 6)
    at = good.index(b"Exif")
    for cut in range(at, at + 40):
        damaged = good[:cut] + b"\xff" * 4 + good[cut + 4 :]
        assert orientation_of(damaged) in (Orientation(), Orientation(rotate=90))
    for length in range(120):
        orientation_of(good[:length])


def test_exif_data_behind_many_chunks_is_found_in_time():
    head, *_, tail = oriented("png", 6).partition(b"eXIf")
    empty = b"\0\0\0\0IDAT" + bytes(4)
    began = time.process_time()
    assert orientation_of(head[:-4] + 30_000 * empty + head[-4:] + b"eXIf" + tail) == Orientation(rotate=90)
    assert time.process_time() - began < 2


def test_the_properties_of_a_heif_picture_turn_it():
    head = b"\0\0\0\x1cftypavif" + bytes(16)
    turned, mirrored = b"\0\0\0\x09irot\x01", b"\0\0\0\x09imir\x01"
    assert orientation_of(head + turned) == Orientation(rotate=270)
    assert orientation_of(head + mirrored) == Orientation(hflip=True)
    assert orientation_of(head + turned + mirrored) == Orientation(vflip=True, rotate=270)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC picture, .*pip install pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1", "AVIF picture, .*pip install 'pillow>=11.3'"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL picture, .*pip install pillow-jxl-plugin"),
        (b"GIF89a", "GIF picture, .*pip install pillow"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42isom", "damaged, or not an image"),
    ],
)
def test_a_format_that_nothing_here_reads_is_named_with_what_to_install(monkeypatch, head, words):
    for module in ("PIL", "PIL.Image", "pillow_heif"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=words):
        decode_foreign(head + bytes(40))


def test_a_gif_is_read_where_opencv_or_pillow_can(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.new("P", (8, 6), 0)
    picture.putpalette([200, 10, 20] * 256)
    picture.save(tmp_path / "a.gif")
    image = read_image(tmp_path / "a.gif")
    assert image.size == (8, 6)
    assert image.rgb()[0, 0].tolist() == [200, 10, 20]
    # Damage is an error of its own.
    (tmp_path / "b.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:20])
    with pytest.raises(ValueError, match=r"GIF picture|cannot be decoded|damaged"):
        read_image(tmp_path / "b.gif")


def test_a_picture_at_which_the_decoder_crashes_is_damaged_and_the_next_one_is_read(monkeypatch):
    good = cv2.imencode(".jp2", solid(size=(48, 64, 3)))[1].tobytes()
    assert decode_image(good).size == (64, 48)
    asked = still_process._asked

    def crash(child, data):
        os.kill(child.pid, signal.SIGSEGV)
        return asked(child, data)

    with monkeypatch.context() as patch:
        patch.setattr(still_process, "_asked", crash)
        with pytest.raises(ValueError, match="its decoder ended by signal SIGSEGV"):
            decode_image(good)
    assert decode_image(good).rgb()[0, 0].tolist() == [128] * 3


def test_a_decoder_that_writes_a_warning_has_the_full_time_for_its_picture(monkeypatch):
    wait, waits = still_process.ChildProcess.wait_readable, []

    def wait_readable(child, timeout):
        # Output to stderr ends a wait, too.
        waits.append(timeout)
        return len(waits) > 2 and wait(child, timeout)

    monkeypatch.setattr(still_process.ChildProcess, "wait_readable", wait_readable)
    assert decode_image(cv2.imencode(".jp2", solid(size=(48, 64, 3)))[1].tobytes()).size == (64, 48)


def test_an_interrupted_picture_is_not_taken_for_the_next_one(monkeypatch):
    small, large = (cv2.imencode(".jp2", solid(size=(48, side, 3)))[1].tobytes() for side in (64, 80))

    def interrupt(child, timeout):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(still_process.ChildProcess, "wait_readable", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decode_image(small)
    assert decode_image(large).size == (80, 48)


def test_the_process_for_pictures_ends_when_it_is_idle(monkeypatch):
    monkeypatch.setattr(still_process, "_IDLE_S", 0.1)
    started = [child for child in (still_process._child,) if child is not None]
    start = still_process.ChildProcess
    monkeypatch.setattr(
        still_process, "ChildProcess", lambda *args, **more: started.append(start(*args, **more)) or started[-1]
    )
    decode_image(cv2.imencode(".jp2", solid(size=(48, 64, 3)))[1].tobytes())
    deadline = time.monotonic() + 5
    while still_process._child is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert still_process._child is None
    with still_process._lock:
        assert started
        assert not any(Path(f"/proc/{child.pid}").exists() for child in started)


def test_pictures_are_never_read_as_video(tmp_path):
    picture = cv2.imencode(".jpg", solid())[1].tobytes()
    for name in ("a.jfif", "a.JPE", "photo", "photo.jpg_original", "clip.mp4"):
        (tmp_path / name).write_bytes(picture)
        assert scheme_of(str(tmp_path / name)) == "images"
        assert names(opened(tmp_path / name)) == [name]
    (tmp_path / "film").write_bytes(picture * 2)
    assert scheme_of(str(tmp_path / "film")) == "video"
    for name in ("a.heic", "a.avif", "a.gif", "a.webp", "a.tiff"):
        assert scheme_of(name) == "images"


def test_cmyk_and_every_bit_depth_of_tiff_are_read(tmp_path):
    for dtype, level in ((np.uint8, 200), (np.uint16, 200 * 257)):
        path = write(tmp_path / "a.tiff", solid(level, dtype=dtype))
        assert read_image(path).rgb()[0, 0].tolist() == [200] * 3
    write(tmp_path / "f.tiff", solid(0.5, (6, 8), np.float32))
    with pytest.raises(ValueError, match="its pixels are float32"):
        read_image(tmp_path / "f.tiff")
    if pillow := pytest.importorskip("PIL.Image"):
        pillow.new("RGB", (8, 6), (200, 0, 0)).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
        assert np.abs(read_image(tmp_path / "c.jpg").rgb()[0, 0].astype(int) - (200, 0, 0)).max() < 8


def test_a_folder_is_read_in_natural_order_without_hidden_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".thumbnails").mkdir()
    for name in ("img10.png", "img2.png", "img1.PNG", "b/img1.png", ".hidden.png", ".thumbnails/x.png"):
        path = tmp_path / name
        path.write_bytes(cv2.imencode(".png", solid())[1].tobytes())
    (tmp_path / "notes.txt").write_text("no image")
    source = opened(tmp_path)
    assert names(source) == ["img1.png", "img1.PNG", "img2.png", "img10.png"]
    assert not source.skipped


def test_folders_may_be_deeper_than_the_call_stack(tmp_path):
    deepest = tmp_path.joinpath(*"d" * 200)
    deepest.mkdir(parents=True)
    write(deepest / "a.png", solid())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 50)
    try:
        found = list(walk_images(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert found == [str(deepest / "a.png")]


def test_a_broken_link_is_skipped_alone(tmp_path):
    write(tmp_path / "1.png", solid())
    (tmp_path / "2.png").symlink_to("2.png")
    (tmp_path / "3.png").symlink_to("gone.png")
    source = opened(tmp_path)
    assert names(source) == ["1.png"]
    assert source.skipped == [(tmp_path / "2.png", "Too many levels of symbolic links")]


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PermanentSourceError, match="not a file but a pipe or a device"):
        opened(tmp_path / "pipe.png")
    with pytest.raises(PermanentSourceError, match="no images in folder"):
        opened(tmp_path)


def test_a_file_larger_than_any_image_is_not_read_into_memory(tmp_path):
    huge = tmp_path / "huge.png"
    huge.touch()
    os.truncate(huge, 1 << 42)
    with pytest.raises(ValueError, match="it has 4194304 MB, more than any image has"):
        read_image(huge)


def test_an_image_that_would_fill_memory_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(20_000, 20_000, 2, 8, bytes(99)))
    code = "import sys; from camapp.capture.images import read_image; read_image(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_IO_MAX_IMAGE_PIXELS"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.png")],
        cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1].startswith("ValueError: it has more pixels than allowed")


def test_a_glob_reads_the_files_that_it_matches(tmp_path):
    for name in ("a1.png", "a2.png", "b1.png"):
        write(tmp_path / name, solid())
    assert names(opened(tmp_path / "a*.png")) == ["a1.png", "a2.png"]


def test_the_truth_is_a_label_of_the_model_in_the_name(tmp_path, caplog):
    for name in ("12_7.png", "13_traffic_light.png", "14.png", "15_x.png", "16_y.png", "IMG_2034.png"):
        write(tmp_path / name, solid())
    source = ImagesSource(str(tmp_path), SourceOptions(labels=("7", "traffic light")))
    source.open()
    truths = [source.read(1).truth for _ in range(6)]
    assert [truth and truth.label for truth in truths] == [None, "7", "traffic light", None, None, None]
    assert len([line for line in caplog.messages if "is no label of the model" in line]) == 1


def test_unreadable_files_are_skipped_and_logged(tmp_path, caplog):
    write(tmp_path / "2_good.png", solid())
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "3.jpg").write_text("not an image")
    write(tmp_path / "4.tiff", solid(0.5, dtype=np.float32))
    source = opened(tmp_path)
    assert names(source) == ["2_good.png"]
    reasons = {path.name: reason for path, reason in source.skipped}
    assert reasons.keys() == {"1.png", "3.jpg", "4.tiff"}
    assert "empty" in reasons["1.png"]
    assert "damaged" in reasons["3.jpg"]
    assert "float32" in reasons["4.tiff"]
    assert len(caplog.records) == 3


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(PermanentSourceError, match=r"no images in folder .*\.png"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["", "1.png"])
def test_files_without_permission_are_denied(tmp_path, monkeypatch, name):
    write(tmp_path / "1.png", solid())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SourceDenied, match="may not be read by this user"):
        opened(tmp_path / name)


def test_a_glob_without_matches_is_an_error(tmp_path):
    with pytest.raises(PermanentSourceError, match="no images at"):
        opened(tmp_path / "*.png")


@pytest.mark.parametrize("loop", [False, True])
def test_a_folder_without_a_readable_file_is_an_error_and_not_an_endless_loop(tmp_path, loop):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_text("no")
    with pytest.raises(PermanentSourceError, match=r"cannot read .*1\.png.*other 1"):
        opened(tmp_path, loop=loop)


def test_loop_restarts_without_the_unreadable_files(tmp_path):
    write(tmp_path / "1.png", solid())
    (tmp_path / "2.png").write_text("no")
    write(tmp_path / "3.png", solid())
    source = opened(tmp_path, loop=True)
    assert [source.read(1).name for _ in range(5)] == ["1.png", "3.png", "1.png", "3.png", "1.png"]
    assert len(source.skipped) == 1


def test_a_source_that_is_opened_again_starts_at_the_first_file(tmp_path):
    write(tmp_path / "1.png", solid())
    source = opened(tmp_path)
    assert names(source) == ["1.png"]
    source.close()
    source.close()
    source.open()
    assert names(source) == ["1.png"]


def test_large_images_are_shrunk_to_the_size_and_small_ones_stay(tmp_path):
    write(tmp_path / "1.png", solid(size=(100, 400, 3)))
    write(tmp_path / "2.png", solid(size=(10, 20, 3)))
    source = opened(tmp_path, size=(100, 100))
    assert [source.read(1).view.size for _ in range(2)] == [(100, 25), (20, 10)]


def test_realtime_yields_images_at_the_requested_rate(tmp_path):
    for number in range(5):
        write(tmp_path / f"{number}.png", solid())
    source = opened(tmp_path, realtime=True, fps=20)
    assert source.live
    assert source.fps == 20
    start = time.monotonic()
    assert len(names(source)) == 5
    assert 0.19 <= time.monotonic() - start < 3


def test_without_realtime_images_come_as_fast_as_they_are_read(tmp_path):
    for number in range(5):
        write(tmp_path / f"{number}.png", solid())
    source = opened(tmp_path, fps=1)
    assert not source.live
    start = time.monotonic()
    assert len(names(source)) == 5
    assert time.monotonic() - start < 3
