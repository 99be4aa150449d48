"""Shows the images of the parent process in a window and sends it the keys that are pressed.

OpenCV's window library ends its process when the display goes away, so only this child process uses it:
`python -m camapp.sinks.window_process FD TITLE FULL_SCREEN`, started by `WindowSink`. Each message is one packet on the
socket FD; the process exits when that socket is closed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time

from camapp.core.arrays import Pixels
from camapp.sinks.x_events import MAP_NOTIFY, screen_without_manager, send_to_own_windows
from camapp.system.process import die_with_parent
from camapp.system.shared_frames import map_slots

# Parent to child: MEMORY, slots, height, width, with the descriptor of the memory of the next frames
# | FRAME, slot, 0, 0.
MEMORY, FRAME = 1, 2
COMMAND = struct.Struct("<iiii")
# Child to parent: SHOWN, 0, monotonic ns | KEY, character, 0 | BROKEN, 0, 0 and the reason in UTF-8.
SHOWN, KEY, BROKEN = 1, 2, 3
REPORT = struct.Struct("<iiq")
PACKET_BYTES = 4096

KEYS = "qshfp ?0123456789"
# Sent in place of a key if the window was closed.
CLOSED = "c"
_ESCAPE = 27
_KEY_WAIT_S = 0.01
_MAX_START = (1280, 720)
_MAX_SIDE = 8192
# MapNotify events sent to a new window, as Qt may have lost the X server's own (see `x_events`).
_MAP_NOTIFIES = 3
# Seconds from opening the window to the first of them, and between them.
_MAP_NOTIFY_S = 1.0


def main(arguments: list[str], map_notifies: int = _MAP_NOTIFIES) -> int:
    """Show frames until the parent or the user closes the window; return 0, or 3 if this OpenCV has no windows."""
    descriptor, title, full_screen = int(arguments[0]), arguments[1], arguments[2] == "1"
    die_with_parent()
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the parent closes the socket to end this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as parent:
        try:
            _Window(parent, title, full_screen, map_notifies).run()
        except (BrokenPipeError, ConnectionResetError):
            return 0
        except Exception as error:  # noqa: BLE001 - the parent logs it: stderr is not shown
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            parent.send(REPORT.pack(BROKEN, 0, 0) + reason.encode()[: PACKET_BYTES // 2])
            return 3
    return 0


def next_area(reported: tuple[int, int], shown: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) to fill next, from the area that OpenCV reports and the size of the last image.

    OpenCV 4.9 to 4.11 with Qt never enlarge an image (opencv issue 26761) and report the smaller of the image
    and the window; so a report as large as the image only means that the window is at least that large.
    """
    width, height = (
        area if 0 < area < image else min(image * 3 // 2, _MAX_SIDE)
        for area, image in zip(reported, shown, strict=True)
    )
    return width, height


class _Window:
    def __init__(self, parent: socket.socket, title: str, full_screen: bool, map_notifies: int) -> None:
        self._parent = parent
        self._title = title
        self._full_screen = full_screen
        self._images: Pixels | None = None
        self._is_open = False
        self._image_size = (0, 0)
        self._start_area = _MAX_START
        self._map_notifies = map_notifies
        self._map_notify_due = 0.0

    def run(self) -> None:
        while True:
            # No key can be pressed before there is a window; afterwards its events have to be handled.
            readable, _, _ = select.select([self._parent], [], [], _KEY_WAIT_S if self._is_open else None)
            if readable and not self._receive():
                return
            if self._is_open and not self._handle_events():
                return

    def _receive(self) -> bool:
        """Handle a packet of the parent; return False at the end of the socket."""
        packet, descriptors, _, _ = socket.recv_fds(self._parent, PACKET_BYTES, 1)
        if not packet:
            return False
        kind, *numbers = COMMAND.unpack(packet)
        if kind == MEMORY:
            slots, height, width = numbers
            self._images = map_slots(descriptors[0], slots, height, width)
            os.close(descriptors[0])
        elif self._images is not None:
            self._show(self._images[numbers[0]])
        return True

    def _show(self, image: Pixels) -> None:
        import cv2

        from camapp.core.letterbox import letterboxed

        if not self._is_open:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)
            height, width = image.shape[:2]
            scale = min(1.0, _MAX_START[0] / width, _MAX_START[1] / height)
            area = max(1, round(width * scale)), max(1, round(height * scale))
            self._start_area = area
            cv2.resizeWindow(self._title, *area)
            self._fill_screen(self._full_screen)
            self._is_open, self._map_notify_due = True, time.monotonic() + _MAP_NOTIFY_S
        else:
            _, _, columns, rows = cv2.getWindowImageRect(self._title)
            area = next_area((columns, rows), self._image_size)
        # WINDOW_KEEPRATIO distorts when the image's ratio changes and leaves bright borders, so the image has its own.
        # It is one pixel larger than the window, which shows whether the window grew.
        fitted = cv2.copyMakeBorder(letterboxed(image, *area), 0, 1, 0, 1, cv2.BORDER_REPLICATE)
        self._image_size = fitted.shape[1], fitted.shape[0]
        # imshow copies the image, so the slot can be reused; waitKey paints it.
        cv2.imshow(self._title, fitted)
        self._press(cv2.waitKey(1))
        self._parent.send(REPORT.pack(SHOWN, 0, time.monotonic_ns()))

    def _handle_events(self) -> bool:
        """Handle keys; return False if the user has closed the window."""
        import cv2

        if self._map_notifies and time.monotonic() > self._map_notify_due:
            send_to_own_windows(MAP_NOTIFY)
            self._map_notifies, self._map_notify_due = self._map_notifies - 1, time.monotonic() + _MAP_NOTIFY_S
        self._press(cv2.waitKey(1))
        try:
            visible = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # OpenCV 5 with Qt, once no window is open
            visible = False
        if not visible:
            self._send_key(CLOSED)
        return visible

    def _press(self, code: int) -> None:
        if code < 0:
            return
        key = "q" if code & 0xFF == _ESCAPE else chr(code & 0xFF).lower()
        if key == "f":
            self._fill_screen(not self._full_screen)
        if key in KEYS:
            self._send_key(key)

    def _send_key(self, key: str) -> None:
        self._parent.send(REPORT.pack(KEY, ord(key), 0))

    def _fill_screen(self, full: bool) -> None:
        import cv2

        self._full_screen = full
        if screen := screen_without_manager():
            # Then nothing acts on the request for a full screen, and a window may place itself.
            cv2.moveWindow(self._title, 0, 0)
            cv2.resizeWindow(self._title, *(screen if full else self._start_area))
            return
        cv2.setWindowProperty(
            self._title, cv2.WND_PROP_FULLSCREEN, cv2.WINDOW_FULLSCREEN if full else cv2.WINDOW_NORMAL
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
