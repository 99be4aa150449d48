"""Tests cameras that share workers: each gets its own results and its turn, and can stop at any time."""

import gc
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from camapp.workers.pool import STOPPED
from camapp.workers.shared_pool import SharedWorkers


class Camera:
    """Keeps the outcomes of a share."""

    def __init__(self, shared, model, key="same"):
        self.outcomes = {}
        self.outputs = {}
        self.changed = threading.Condition()
        self.share = shared.share(key, model, 1, 0, self._on_outcome)
        self.share.start()

    def _on_outcome(self, outcome):
        with self.changed:
            assert outcome.token not in self.outcomes, "one outcome a token"
            self.outcomes[outcome.token] = outcome.error
            self.outputs[outcome.token] = outcome.slot.outputs[0][0].copy()
            self.changed.notify_all()
        self.share.release(outcome.slot)

    def send(self, token, image, timeout=20):
        slot = self.share.acquire(timeout)
        assert slot is not None, "no slot within its bound"
        slot.input[0] = image
        self.share.submit(slot, token, 1)

    def wait(self, token):
        with self.changed:
            assert self.changed.wait_for(lambda: token in self.outcomes, 20)
        return self.outcomes[token]


@pytest.fixture
def pair(model):
    shared = SharedWorkers(workers=1, threads=1)
    cameras = [Camera(shared, model), Camera(shared, model)]
    assert all(camera.share.wait_ready(20) for camera in cameras)
    yield cameras
    for camera in cameras:
        camera.share.stop()


def test_each_camera_gets_the_results_of_its_own_images_under_its_own_numbers(pair, model):
    rng = np.random.default_rng(1)
    images = rng.random((2, 6, 1, 28, 28), np.float32)
    for number in range(6):
        for camera, own in zip(pair, images, strict=True):
            camera.send(number, own[number])
    for camera, own in zip(pair, images, strict=True):
        for number in range(6):
            assert camera.wait(number) == ""
            np.testing.assert_allclose(camera.outputs[number], model.run(own[number : number + 1])[0], atol=1e-5)
    assert pair[0].share.processes() == pair[1].share.processes()
    assert all(camera.share.busy_seconds() > 0 for camera in pair)


def test_a_camera_that_always_has_an_image_ready_does_not_starve_the_other(pair):
    stop = threading.Event()
    counts = [0, 0]

    def run(index):
        while not stop.is_set():
            pair[index].send(counts[index], np.zeros((1, 28, 28), np.float32))
            counts[index] += 1

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in (0, 1)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert min(counts) >= 0.8 * max(counts) > 10


def test_a_camera_may_stop_while_a_worker_has_its_image_and_the_other_continues(pair):
    worker = pair[0].share.processes()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        pair[0].send(0, np.zeros((1, 28, 28), np.float32))
        pair[0].share.stop(0.1)
        assert pair[0].outcomes == {0: STOPPED}
    finally:
        os.kill(worker, signal.SIGCONT)
    pair[1].send(0, np.ones((1, 28, 28), np.float32))
    assert pair[1].wait(0) == ""
    assert pair[1].share.drain(5)


def test_a_killed_worker_costs_the_camera_whose_image_it_held(pair):
    worker = pair[0].share.processes()[0]
    os.kill(worker, signal.SIGSTOP)
    pair[0].send(0, np.zeros((1, 28, 28), np.float32))
    os.kill(worker, signal.SIGKILL)
    assert pair[0].wait(0) == "worker died"
    pair[1].send(0, np.zeros((1, 28, 28), np.float32))
    assert pair[1].wait(0) == ""
    assert pair[0].share.restarts == pair[1].share.restarts == 1


def test_the_workers_end_with_the_last_camera_and_a_later_one_starts_new_ones(model):
    shared = SharedWorkers(workers=1, threads=1)
    first, second = Camera(shared, model), Camera(shared, model)
    assert first.share.wait_ready(20)
    worker = first.share.processes()[0]
    first.share.stop()
    assert os.path.exists(f"/proc/{worker}")
    second.share.stop()
    assert not os.path.exists(f"/proc/{worker}")
    third = Camera(shared, model)
    third.send(0, np.zeros((1, 28, 28), np.float32))
    assert third.wait(0) == ""
    third.share.stop()


def test_other_models_have_other_workers(model):
    shared = SharedWorkers(workers=1, threads=1)
    cameras = [Camera(shared, model, key) for key in "ab"]
    assert all(camera.share.wait_ready(20) for camera in cameras)
    assert cameras[0].share.processes() != cameras[1].share.processes()
    for camera in cameras:
        camera.share.stop()


def test_a_camera_that_comes_while_the_last_one_leaves_has_new_workers(model, monkeypatch):
    shared = SharedWorkers(workers=1, threads=1)
    last = shared.share("same", model, 1, 0, print)
    enter = type(last._shared).enter

    def enter_late(pool, on_outcome):
        if pool is last._shared:
            last.stop()
        return enter(pool, on_outcome)

    monkeypatch.setattr(type(last._shared), "enter", enter_late)
    next_one = shared.share("same", model, 1, 0, print)
    assert next_one._shared is not last._shared
    next_one.stop()


def test_workers_that_have_ended_leave_no_memory(model):
    shared = SharedWorkers(workers=1, threads=1)
    shares = []
    for number in range(3):
        # As a model file that changes again and again.
        shares.append(shared.share(number, model, 1, 0, print))
        if number:
            shares.pop(0).stop()
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    assert maps.count("camapp-slots") == 1
    shares[0].stop()
