from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from camapp.system.shared_frames import FramePublisher, Memory, ReadFrame, SharedFrames, map_slots

READ_SUM = """
import sys, numpy as np
from camapp.system.shared_frames import map_slots
fd, slots, height, width, slot = map(int, sys.argv[1:])
print(int(map_slots(fd, slots, height, width)[slot].sum()))
"""


def test_another_process_reads_what_was_drawn() -> None:
    frames = SharedFrames()
    image = frames.acquire(6, 8)
    image[:] = 7
    frames.publish(image, 41)
    taken = frames.take()
    assert taken is not None
    assert taken.seq == 41
    arguments = [str(number) for number in (frames.fd, frames.slots, *frames.size, taken.slot)]
    command = [sys.executable, "-c", READ_SUM, *arguments]
    done = subprocess.run(command, pass_fds=[frames.fd], capture_output=True, text=True, timeout=20, check=True)
    assert int(done.stdout) == 6 * 8 * 3 * 7


def test_newest_wins_and_is_taken_once() -> None:
    frames = SharedFrames()
    for seq in range(10):
        frames.publish(np.full((4, 4, 3), seq, np.uint8), seq)
    taken = frames.take()
    assert taken is not None
    assert taken.seq == 9
    assert frames.take(after=taken.serial) is None


def test_a_held_frame_is_never_overwritten() -> None:
    frames = SharedFrames()
    frames.publish(np.full((4, 4, 3), 100, np.uint8), 0)
    held = frames.take()
    assert held is not None
    view = map_slots(frames.fd, frames.slots, 4, 4)[held.slot]
    for seq in range(1, 20):
        frames.publish(np.full((4, 4, 3), seq, np.uint8), seq)
        assert (view == 100).all()
    frames.release(held)
    for seq in range(20, 23):
        frames.publish(np.full((4, 4, 3), seq, np.uint8), seq)
    assert (view != 100).all(), "a released slot is used again"


def test_several_readers_hold_different_frames() -> None:
    frames = SharedFrames(readers=2)
    frames.publish(np.full((2, 2, 3), 1, np.uint8), 1)
    slow = frames.take()
    assert slow is not None
    for seq in range(2, 30):
        frames.publish(np.full((2, 2, 3), seq, np.uint8), seq)
        quick = frames.take()
        assert quick is not None
        assert (quick.seq, quick.slot != slow.slot) == (seq, True)
        frames.release(quick)


def test_a_slot_from_acquire_is_published_without_a_copy() -> None:
    frames = SharedFrames()
    image = frames.acquire(4, 4)
    frames.publish(image, 0)
    taken = frames.take()
    assert taken is not None
    image[0, 0] = 55
    assert (map_slots(frames.fd, frames.slots, 4, 4)[taken.slot][0, 0] == 55).all()


def test_a_new_size_makes_new_memory_and_old_frames_stay_readable() -> None:
    frames = SharedFrames()
    frames.publish(np.full((4, 4, 3), 9, np.uint8), 0)
    old = frames.take()
    assert old is not None
    view = map_slots(frames.fd, frames.slots, 4, 4)[old.slot]
    frames.publish(np.zeros((8, 2, 3), np.uint8), 1)
    new = frames.take()
    assert new is not None
    assert (new.generation, frames.size) == (old.generation + 1, (8, 2))
    frames.release(old)
    assert (view == 9).all()


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
    frames = SharedFrames()
    frames.acquire(4, 4)
    with pytest.raises(ValueError, match="size"):
        map_slots(frames.fd, frames.slots, 400, 400)


class Reader:
    """The messages that a publisher sent."""

    def __init__(self) -> None:
        self.accepts = True
        self.shapes: list[tuple[int, int, int]] = []
        self.seqs: list[int] = []
        self.publisher = FramePublisher(self._accept)

    def _accept(self, frame: ReadFrame, memory: Memory | None) -> bool:
        if self.accepts:
            self.seqs.append(frame.seq)
            self.shapes += [memory[1]] if memory is not None else []
        return self.accepts

    def publish(self, seq: int, size: int = 4) -> None:
        self.publisher.publish(np.zeros((size, size, 3), np.uint8), seq)


def test_a_reader_gets_the_newest_image_once_it_is_done_with_the_last() -> None:
    reader = Reader()
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
    reader.publisher.wanted = True
    for seq, size in enumerate((4, 4, 6)):
        reader.publish(seq, size)
        reader.publisher.release()
    assert reader.shapes == [(3, 4, 4), (3, 6, 6)]


def test_an_image_that_a_reader_did_not_accept_is_offered_again() -> None:
    reader = Reader()
    reader.publisher.wanted, reader.accepts = True, False
    for seq in range(10):
        reader.publish(seq)
    reader.accepts = True
    reader.publisher.offer()
    assert (reader.seqs, len(reader.shapes)) == ([9], 1)


def test_the_next_reader_starts_with_the_newest_image_and_its_memory() -> None:
    reader = Reader()
    reader.publisher.wanted = True
    reader.publish(0)
    reader.publisher.reset()
    reader.publish(1)
    assert reader.seqs == [0]
    reader.publisher.wanted = True
    reader.publisher.offer()
    assert (reader.seqs, len(reader.shapes)) == ([0, 1], 2)
