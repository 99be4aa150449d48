"""A crash, a hang or the end of the decoder costs a reopen, and leaves no process behind."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from camapp.capture.decoder import Decoder, DecoderDied, End, _Memory
from camapp.capture.decoder_process import Job
from camapp.capture.ffmpeg import file_url, libraries
from camapp.capture.source import EndOfStream, SourceOptions, create_source
from camapp.capture.video import VideoSource
from camapp.core.errors import PermanentSourceError
from tests.programs import program

FRAMES = 30


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Return a film of 30 frames with B-frames; the grey level of a frame encodes its number."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    picture = "nullsrc=size=160x120:rate=10,format=gray,geq=lum='8*N'"
    arguments = ("-frames:v", str(FRAMES), "-c:v", "libx264", "-g", "10", "-qp", "4", "-pix_fmt", "yuvj420p")
    subprocess.run(
        [program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", picture, *arguments, path], check=True, timeout=30
    )
    return path


def number_of(shot):
    return round(shot.view.gray().mean() / 8)


def children():
    """Return the decoder processes of this one, zombies included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and (b"decoder_process" in command or fields[0] == "Z"):
            found.append(int(stat.parent.name))
    return found


def rest_of(source):
    numbers = []
    try:
        while True:
            numbers.append(number_of(source.read(1)))
    except EndOfStream:
        return numbers


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_loses_no_frame_of_a_file(film, number, caplog):
    source = create_source(str(film), SourceOptions())
    source.open()
    numbers = [number_of(source.read(1)) for _ in range(12)]
    (child,) = children()
    os.kill(child, number)
    numbers += rest_of(source)
    assert numbers == list(range(FRAMES))
    assert number.name in caplog.text
    assert not children()


def test_a_decoder_that_hangs_is_replaced(film, caplog):
    source = VideoSource(str(film), SourceOptions(), limit_s=0.5)
    source.open()
    numbers = [number_of(source.read(1)) for _ in range(5)]
    os.kill(children()[0], signal.SIGSTOP)
    numbers += rest_of(source)
    assert numbers == list(range(FRAMES))
    assert "hung for 0.5 s" in caplog.text
    assert not children()


def test_a_file_at_which_the_decoder_always_crashes_is_given_up(film, monkeypatch, caplog):
    source = create_source(str(film), SourceOptions())
    source.open()

    def crash(*args):
        raise DecoderDied("the decoder ended by signal SIGSEGV")

    monkeypatch.setattr(Decoder, "next", crash)
    source.read(1)
    with pytest.raises(PermanentSourceError, match=r"cannot be decoded past frame 1: .*SIGSEGV"):
        source.read(1)
    assert "1 s further on" in caplog.text
    source.close()
    assert not children()


def test_a_source_that_is_not_closed_leaves_no_process(film):
    source = create_source(str(film), SourceOptions())
    source.open()
    assert len(children()) == 1
    del source
    gc.collect()
    assert not children()


def test_the_decoder_ends_with_its_parent_even_while_it_is_stopped(film):
    code = (
        "import sys, os, signal; from camapp.capture.source import *\n"
        "source = create_source(sys.argv[1], SourceOptions()); source.open()\n"
        "child = source._decoder._child.pid; os.kill(child, signal.SIGSTOP); print(child, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, film], capture_output=True, text=True, check=False, timeout=30)
    child = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 5
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_pictures_that_are_kept_do_not_change_and_do_not_stop_the_decoder(film):
    source = create_source(str(film), SourceOptions())
    source.open()
    shots = []
    with contextlib.suppress(EndOfStream):
        while True:
            shots.append(source.read(1))
    source.close()
    assert [number_of(shot) for shot in shots] == list(range(FRAMES))


def test_pictures_are_not_copied_while_slots_are_free(film):
    decoder = Decoder("film", Job(file_url(film), libraries()), threading.Event())
    owners = set()
    while not isinstance(picture := decoder.next(5), End):
        owners.add(type(picture.image.data.base).__name__ + str(picture.image.data.base.base is not None))
        assert picture.image.data.flags.owndata is False
    decoder.close()
    assert owners == {"ndarrayTrue"}


def test_a_wait_ends_with_the_run(film):
    stopping = threading.Event()
    decoder = Decoder("film", Job(file_url(film), libraries()), stopping)
    os.kill(children()[0], signal.SIGSTOP)
    stopping.set()
    start = time.monotonic()
    assert decoder.next(30) is None
    decoder.close()
    assert time.monotonic() - start < 3
    assert not children()


def test_frames_before_a_position_are_skipped(film):
    decoder = Decoder("film", Job(file_url(film), libraries(), after_s=1.45), threading.Event())
    first = decoder.next(5)
    assert first.time_s == pytest.approx(1.5, abs=1e-3)
    times = []
    while not isinstance(picture := decoder.next(5, min_s=2.45), End):
        times.append(picture.time_s)
    assert times[-1] == pytest.approx(2.9, abs=1e-3)
    assert len(times) < 14
    assert np.all(np.diff(times) > 0)
    decoder.close()


def test_a_picture_is_given_back_without_any_call_in_python():
    # An interrupt by Ctrl-C that falls into such a call is lost.
    fd = os.memfd_create("slots")
    os.ftruncate(fd, 4 * 48)
    memory = _Memory(fd, generation=0, count=4, slot_bytes=48)
    slot = memory.free.popleft()
    memory.granted += 1
    picture = memory.take(slot, 8, 2, 24)
    assert list(memory.free) == [1, 2, 3]
    part = picture[:1]
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        del picture
        kept = len(memory._returned)
        del part
        freed = len(memory._returned)
    finally:
        sys.setprofile(None)
    assert (kept, freed, calls) == (0, 1, [])
    assert list(memory.free) == [1, 2, 3, 0]
