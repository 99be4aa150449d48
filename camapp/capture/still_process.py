"""Decodes pictures of seldom formats in a child process, as damaged ones crash the decoders of some OpenCV versions.

The main process decodes what libjpeg, libpng, libwebp and libtiff read; OpenCV 4.11 ends with SIGSEGV at some damaged
JPEG 2000 files. The parent sends a descriptor of the file's content, and gets JSON and a descriptor of the pixels.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.capture.exif import orientation_of
from camapp.capture.foreign_images import decode_foreign
from camapp.core.image import as_image, silence_opencv
from camapp.system.process import die_with_parent
from camapp.system.supervised_process import ChildProcess

# Seconds for one picture, and those that the child gets to exit.
_LIMIT_S, _GRACE_S = 30.0, 0.3
# Seconds after which an idle child is ended.
_IDLE_S = 2.0
_MAX_MESSAGE = 4096

_lock = threading.Lock()
# The kernel ends the child together with the thread that started it.
_starter = ThreadPoolExecutor(1, "stills")
_child: ChildProcess | None = None
_used = 0.0


def decode_isolated(data: bytes) -> NDArray[np.uint8]:
    """Decode the content of a file; return upright pixels, grey or B first.

    Raises:
        ValueError: the content cannot be decoded; the message says why.
    """
    global _child, _used
    with _lock:
        if _child is None:
            _child = _starter.submit(partial(ChildProcess, __name__, keep_stderr=True)).result()
            threading.Thread(target=_end_when_idle, args=(_child,), name="stills", daemon=True).start()
        _used = time.monotonic()
        try:
            return _asked(_child, data)
        except ValueError:
            raise
        except BaseException as error:
            # Also after Ctrl-C: the answer that may still come would be taken for that to the next question.
            child, _child = _child, None
            child.end(_GRACE_S)
            if not isinstance(error, OSError):
                raise
            how = "took too long" if isinstance(error, TimeoutError) else f"ended by {child.exit_reason}"
            raise ValueError(f"it is damaged: its decoder {how}") from error


def _end_when_idle(child: ChildProcess) -> None:
    global _child
    while _child is child:
        time.sleep(_IDLE_S / 2)
        with _lock:
            if _child is child and time.monotonic() - _used > _IDLE_S:
                _child = None
                child.end(_GRACE_S)


def _asked(child: ChildProcess, data: bytes) -> NDArray[np.uint8]:
    """Let the child decode. Raises OSError if it ended, TimeoutError, ValueError."""
    fd = _memory(data)
    try:
        socket.send_fds(child.socket, [b"decode"], [fd])
    finally:
        os.close(fd)
    deadline = time.monotonic() + _LIMIT_S
    # Output to stderr, such as a library's warning, ends a wait, too.
    while not child.wait_readable(deadline - time.monotonic()):
        if time.monotonic() > deadline:
            raise TimeoutError
    message, fds, _, _ = socket.recv_fds(child.socket, _MAX_MESSAGE, 1)
    if not message:
        raise OSError("the decoder ended")
    answer = json.loads(message)
    if not fds:
        raise ValueError(answer["reason"])
    try:
        return np.frombuffer(mmap.mmap(fds[0], 0), np.uint8, int(np.prod(answer["shape"]))).reshape(answer["shape"])
    finally:
        os.close(fds[0])


def _memory(data: bytes) -> int:
    """Return a descriptor of memory with this content."""
    fd = os.memfd_create("camapp-still", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def _decode(data: bytes) -> NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in error.err:
            raise ValueError("it has more pixels than allowed (OPENCV_IO_MAX_IMAGE_PIXELS)") from error
        image = None
    if image is None:
        return decode_foreign(data).data
    turned = orientation_of(data).image(as_image(image))
    return turned.data


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    die_with_parent()
    silence_opencv()
    sock = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, fds, _, _ = socket.recv_fds(sock, _MAX_MESSAGE, 1)
        if not message:
            return
        with open(fds[0], "rb") as file:
            # The position is shared with the parent, which has written.
            file.seek(0)
            data = file.read()
        try:
            pixels = _decode(data)
        except (ValueError, MemoryError) as error:
            sock.send(json.dumps({"reason": str(error)[:1000] or "out of memory"}).encode())
            continue
        fd = _memory(pixels.tobytes())
        socket.send_fds(sock, [json.dumps({"shape": pixels.shape}).encode()], [fd])
        os.close(fd)


if __name__ == "__main__":
    main()
