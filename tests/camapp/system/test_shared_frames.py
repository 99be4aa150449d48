from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from camapp.system.shared_frames import SharedFrames, map_slots

READ_SUM = """
import sys, numpy as np
from camapp.system.shared_frames import map_slots
fd, slots, height, width, slot = map(int, sys.argv[1:])
print(int(map_slots(fd, slots, height, width)[slot].sum()))
"""


def test_another_process_reads_what_was_drawn() -> None:
    canvas = SharedFrames()
    image = canvas.acquire(6, 8)
    image[:] = 7
    canvas.publish(image, 41)
    taken = canvas.take()
    assert taken is not None
    assert taken.seq == 41
    arguments = [str(number) for number in (canvas.fd, canvas.slots, *canvas.size, taken.slot)]
    command = [sys.executable, "-c", READ_SUM, *arguments]
    told = subprocess.run(command, pass_fds=[canvas.fd], capture_output=True, text=True, timeout=20, check=True)
    assert int(told.stdout) == 6 * 8 * 3 * 7


def test_newest_wins_and_is_taken_once() -> None:
    canvas = SharedFrames()
    for seq in range(10):
        canvas.publish(np.full((4, 4, 3), seq, np.uint8), seq)
    taken = canvas.take()
    assert taken is not None
    assert taken.seq == 9
    assert canvas.take(after=taken.serial) is None


def test_a_held_frame_is_never_drawn_over() -> None:
    canvas = SharedFrames()
    canvas.publish(np.full((4, 4, 3), 100, np.uint8), 0)
    held = canvas.take()
    assert held is not None
    view = map_slots(canvas.fd, canvas.slots, 4, 4)[held.slot]
    for seq in range(1, 20):
        canvas.publish(np.full((4, 4, 3), seq, np.uint8), seq)
        assert (view == 100).all()
    canvas.release(held)
    for seq in range(20, 23):
        canvas.publish(np.full((4, 4, 3), seq, np.uint8), seq)
    assert (view != 100).all(), "a released slot is used again"


def test_several_readers_hold_different_frames() -> None:
    canvas = SharedFrames(readers=2)
    canvas.publish(np.full((2, 2, 3), 1, np.uint8), 1)
    slow = canvas.take()
    assert slow is not None
    for seq in range(2, 30):
        canvas.publish(np.full((2, 2, 3), seq, np.uint8), seq)
        quick = canvas.take()
        assert quick is not None
        assert (quick.seq, quick.slot != slow.slot) == (seq, True)
        canvas.release(quick)


def test_a_slot_from_acquire_is_published_without_a_copy() -> None:
    canvas = SharedFrames()
    image = canvas.acquire(4, 4)
    canvas.publish(image, 0)
    taken = canvas.take()
    assert taken is not None
    image[0, 0] = 55
    assert (map_slots(canvas.fd, canvas.slots, 4, 4)[taken.slot][0, 0] == 55).all()


def test_a_new_size_makes_new_memory_and_old_frames_stay_readable() -> None:
    canvas = SharedFrames()
    canvas.publish(np.full((4, 4, 3), 9, np.uint8), 0)
    old = canvas.take()
    assert old is not None
    view = map_slots(canvas.fd, canvas.slots, 4, 4)[old.slot]
    canvas.publish(np.zeros((8, 2, 3), np.uint8), 1)
    new = canvas.take()
    assert new is not None
    assert (new.generation, canvas.size) == (old.generation + 1, (8, 2))
    canvas.release(old)
    assert (view == 9).all()


def test_leaves_nothing_behind() -> None:
    before = set(os.listdir("/dev/shm"))
    descriptors = len(os.listdir("/proc/self/fd"))
    for size in range(1, 6):
        canvas = SharedFrames()
        canvas.publish(np.zeros((size, 4, 3), np.uint8), 0)
        canvas.publish(np.zeros((4, size + 5, 3), np.uint8), 1)
        canvas.close()
    assert set(os.listdir("/dev/shm")) == before
    del canvas
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_memory_smaller_than_said_is_refused() -> None:
    canvas = SharedFrames()
    canvas.acquire(4, 4)
    with pytest.raises(ValueError, match="size"):
        map_slots(canvas.fd, canvas.slots, 400, 400)
