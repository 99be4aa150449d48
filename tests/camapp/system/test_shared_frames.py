from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from camapp.system.shared_frames import Memory, ReadFrame, SharedFrames, map_slots

READ_SUM = """
import sys, numpy as np
from camapp.system.shared_frames import map_slots
fd, slots, height, width, slot = map(int, sys.argv[1:])
print(int(map_slots(fd, slots, height, width)[slot].sum()))
"""


class Reader:
    """The images that a reader process was sent; it maps the memory as such a process does."""

    def __init__(self, wanted: bool = True) -> None:
        self.accepts = True
        self.shapes: list[tuple[int, int, int]] = []
        self.seqs: list[int] = []
        self.fd = -1
        self.images = np.empty((0, 0, 0, 3), np.uint8)
        self.slot = -1
        self.publisher = SharedFrames(self._accept)
        self.publisher.wanted = wanted

    def _accept(self, frame: ReadFrame, memory: Memory | None) -> bool:
        if self.accepts:
            self.seqs.append(frame.seq)
            self.slot = frame.slot
            if memory is not None:
                self.fd, shape = memory
                self.shapes.append(shape)
                self.images = map_slots(self.fd, *shape)
        return self.accepts

    def publish(self, seq: int, size: int = 4) -> None:
        self.publisher.publish(np.full((size, size, 3), seq, np.uint8), seq)


def test_another_process_reads_what_was_published() -> None:
    reader = Reader()
    reader.publisher.publish(np.full((6, 8, 3), 7, np.uint8), 41)
    assert reader.seqs == [41]
    arguments = [str(number) for number in (reader.fd, *reader.shapes[0], reader.slot)]
    command = [sys.executable, "-c", READ_SUM, *arguments]
    done = subprocess.run(command, pass_fds=[reader.fd], capture_output=True, text=True, timeout=20, check=True)
    assert int(done.stdout) == 6 * 8 * 3 * 7


def test_a_held_image_is_never_overwritten() -> None:
    reader = Reader()
    reader.publish(100)
    view = reader.images[reader.slot]
    for seq in range(1, 20):
        reader.publish(seq)
        assert (view == 100).all()
    reader.publisher.release()
    for seq in range(20, 23):
        reader.publish(seq)
        assert (reader.images[reader.slot] == 19).all()
    assert (view != 100).all(), "a released slot is used again"


def test_a_new_size_makes_new_memory_and_a_held_image_stays_readable() -> None:
    reader = Reader()
    reader.publish(9)
    view = reader.images[reader.slot]
    for seq in range(5):
        reader.publish(seq, 8)
    assert (view == 9).all()
    reader.publisher.release()
    assert reader.shapes == [(3, 4, 4), (3, 8, 8)]
    assert (reader.images[reader.slot] == 4).all()


def test_no_file_or_descriptor_is_left_behind() -> None:
    before = set(os.listdir("/dev/shm"))
    descriptors = len(os.listdir("/proc/self/fd"))
    for size in range(1, 6):
        frames = SharedFrames()
        frames.publish(np.zeros((size, 4, 3), np.uint8), 0)
        frames.publish(np.zeros((4, size + 5, 3), np.uint8), 1)
        frames.close()
    assert set(os.listdir("/dev/shm")) == before
    del frames
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_descriptor_with_too_little_memory_is_rejected() -> None:
    reader = Reader()
    reader.publish(0)
    with pytest.raises(ValueError, match="size"):
        map_slots(reader.fd, 3, 400, 400)


def test_a_reader_gets_the_newest_image_once_it_is_done_with_the_last() -> None:
    reader = Reader(wanted=False)
    reader.publish(0)
    assert reader.seqs == []
    reader.publisher.wanted = True
    for seq in range(1, 5):
        reader.publish(seq)
    assert reader.seqs == [1]
    assert reader.publisher.held_s() > 0
    released = reader.publisher.release()
    assert released is not None
    assert released.seq == 1
    assert reader.seqs == [1, 4]
    reader.publisher.release()
    assert reader.seqs == [1, 4], "no image is sent twice"
    assert reader.publisher.held_s() == 0
    assert reader.publisher.release() is None
    assert reader.shapes == [(3, 4, 4)]


def test_a_reader_gets_new_memory_with_each_image_size() -> None:
    reader = Reader()
    for seq, size in enumerate((4, 4, 6)):
        reader.publish(seq, size)
        reader.publisher.release()
    assert reader.shapes == [(3, 4, 4), (3, 6, 6)]


def test_an_image_that_a_reader_did_not_accept_is_offered_again() -> None:
    reader = Reader()
    reader.accepts = False
    for seq in range(10):
        reader.publish(seq)
    reader.accepts = True
    reader.publisher.offer()
    assert (reader.seqs, len(reader.shapes)) == ([9], 1)


def test_the_next_reader_starts_with_the_newest_image_and_its_memory() -> None:
    reader = Reader()
    reader.publish(0)
    reader.publisher.reset()
    reader.publish(1)
    assert reader.seqs == [0]
    reader.publisher.wanted = True
    reader.publisher.offer()
    assert (reader.seqs, len(reader.shapes)) == ([0, 1], 2)
