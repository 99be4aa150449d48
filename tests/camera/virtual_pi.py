"""Adds to libcamera's virtual camera what picamera2 expects of a Pi's, then runs camapp or a function of this file.

Run by test_virtual_camera.py inside its root: `python virtual_pi.py run --source picamera://0 ...` is camapp,
`python virtual_pi.py frames` and `python virtual_pi.py preview` print the results of PicameraSource as JSON.
"""

import glob
import json
import mmap
import os
import sys
import time

import fake_kms
import numpy as np

sys.modules["pykms"] = fake_kms
import libcamera  # noqa: E402
import picamera2  # noqa: E402
from picamera2.allocators.allocator import Allocator, Sync  # noqa: E402

FPS = 30


class _Mapped(Sync):
    """Maps a buffer for MappedArray and make_buffer."""

    def __init__(self, allocator, framebuffer, write):
        self._memory = allocator.memory[framebuffer]

    def __enter__(self):
        return self._memory

    def __exit__(self, *_):
        pass

    def get_buffer(self):
        return self._memory


class PlainMemory(Allocator):
    """Allocates ordinary memory, without a dma_heap. Two planes per buffer, because the camera gives only NV12."""

    def __init__(self):
        super().__init__()
        self.sync = _Mapped
        self.memory = {}
        self._of_stream = {}

    def allocate(self, configuration, use_case):
        self.memory, self._of_stream = {}, {}
        for stream in configuration:
            self._of_stream[stream.stream] = [self._buffer(stream) for _ in range(stream.buffer_count)]

    def _buffer(self, stream):
        descriptor = os.memfd_create("frame")
        os.ftruncate(descriptor, stream.frame_size)
        luma = stream.stride * stream.size.height
        planes = []
        for offset, length in ((0, luma), (luma, luma // 2)):
            plane = libcamera.FrameBuffer.Plane()
            plane.fd, plane.offset, plane.length = descriptor, offset, length
            planes.append(plane)
        framebuffer = libcamera.FrameBuffer(planes)
        self.memory[framebuffer] = mmap.mmap(descriptor, stream.frame_size)
        os.close(descriptor)
        return framebuffer

    def buffers(self, stream):
        return self._of_stream[stream]

    def acquire(self, buffers):
        pass

    def release(self, buffers):
        pass

    def close(self):
        self.memory, self._of_stream = {}, {}


class VirtualPi(picamera2.Picamera2):
    """Adds a raw mode to list, and a frame rate; the virtual camera has neither."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._due = 0.0
        self.pre_callback = self._wait

    def _get_raw_modes(self):
        return [{"format": "NV12", "size": (1920, 1080)}]

    def _wait(self, request):
        now = time.monotonic()
        self._due = max(self._due + 1 / FPS, now - 1 / FPS)
        time.sleep(max(0.0, self._due - now))


picamera2.picamera2.DmaAllocator = PlainMemory
picamera2.Picamera2 = VirtualPi


def opened_source(**options):
    from camapp.capture.source import SourceOptions, create_source

    source = create_source("picamera://0", SourceOptions(size=(640, 480), **options))
    source.open()
    return source


def frames():
    """Measure 60 frames; then close the camera and open it again, as after a loss."""
    source = opened_source()
    began = time.monotonic()
    shots = [source.read(2.0) for _ in range(60)]
    seconds = time.monotonic() - began
    stamps = np.array([shot.sensor_ns for shot in shots])
    last = shots[-1]
    results = {
        "describe": source.describe(),
        "fps": 60 / seconds,
        "advancing": bool((np.diff(stamps) > 0).all()),
        "youngest_ms": (time.monotonic_ns() - int(stamps[-1])) / 1e6,
        "view": last.view.rgb().shape,
        "model_view": last.model_view.rgb().shape,
        "colours": len(np.unique(last.view.rgb().reshape(-1, 3) // 32, axis=0)),
    }
    source.close()
    source.open()
    results["again"] = source.read(2.0).view.size
    source.close()
    print(json.dumps(results))


def preview():
    """Show the real DRM preview on a fake screen: removed by a failure, then shown under an overlay."""
    source = opened_source()
    preview = source.drm_preview
    real_glob, results = glob.glob, {}
    source.read(2.0)
    preview.request((1920, 1080))
    for _ in range(10):
        source.read(2.0)
    results["without a card"] = preview.trouble
    glob.glob = lambda pattern: ["/dev/dri/card0"] if "card" in pattern else real_glob(pattern)
    preview.request((1920, 1080))
    began = time.monotonic()
    for number in range(60):
        source.read(2.0)
        if preview.showing and number % 10 == 0:
            preview.set_overlay(np.full((480, 640, 4), number, np.uint8))
    results |= {"showing": preview.showing, "fps": 60 / (time.monotonic() - began)}
    preview.request(None)
    for _ in range(5):
        source.read(2.0)
    results |= {"taken away": not preview.showing, **fake_kms.committed}
    source.close()
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1] in ("frames", "preview"):
        {"frames": frames, "preview": preview}[sys.argv[1]]()
    else:
        from camapp.cli import main

        main()
