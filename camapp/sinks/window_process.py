"""The window's own process: shows what the parent draws and tells it which keys were pressed.

OpenCV's window library ends its process when the display goes away, so it lives here, alone:
`python -m camapp.sinks.window_process FD TITLE FULL_SCREEN`, started by `WindowSink`. OpenCV is imported by nobody else
for its windows. Messages are one packet each on the socket FD; the end of that socket is the end of this process.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import sys
import time

import numpy as np

from camapp.core.arrays import Pixels
from camapp.sinks.qt_exposure import is_unpainted
from camapp.system.shared_frames import map_slots

# Parent to child. With CANVAS comes the descriptor of the memory that the next frames are in.
CANVAS, FRAME = 1, 2
ORDER = struct.Struct("<iiii")  # CANVAS, slots, height, width | FRAME, slot, 0, 0
# Child to parent. KEY carries the character, BROKEN is followed by the reason in UTF-8.
SHOWN, KEY, BROKEN = 1, 2, 3
REPORT = struct.Struct("<iiq")  # SHOWN, 0, monotonic ns | KEY, character, 0 | BROKEN, 0, 0
PACKET_BYTES = 4096

KEYS = "qshfp "
CLOSED = "c"  # in the place of a key: the window was closed
_ESCAPE = 27
_KEY_WAIT_S = 0.01
_PAINTED_S = 1.0  # a window is looked at so long after it was opened,
_OPENINGS = 5  # and opened anew if it stays black, so often
_LARGEST_START = (1280, 720)
_LARGEST_SIDE = 8192
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Show frames until parent or user close the window: 0. 3 when this OpenCV has no windows."""
    descriptor, title, full_screen = int(arguments[0]), arguments[1], arguments[2] == "1"
    _die_with_parent()
    # Control-C and a service manager's SIGTERM reach the whole group; the parent closes the socket when it is time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as parent:
        try:
            _Window(parent, title, full_screen).run()
        except (BrokenPipeError, ConnectionResetError):
            return 0
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to say it, for nobody sees this stderr
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            parent.send(REPORT.pack(BROKEN, 0, 0) + reason.encode()[: PACKET_BYTES // 2])
            return 3
    return 0


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def letterboxed(image: Pixels, width: int, height: int) -> Pixels:
    """The image as large as fits in (width, height), centred, black around it."""
    import cv2

    rows, columns = image.shape[:2]
    if (columns, rows) == (width, height):
        return image
    scale = min(width / columns, height / rows)
    inner = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.zeros((height, width, 3), np.uint8)
    out[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner, interpolation=how)
    return out


def next_area(reported: tuple[int, int], handed: tuple[int, int]) -> tuple[int, int]:
    """(width, height) to fill next, from the area that OpenCV reports and the size it was handed.

    OpenCV 4.9 to 4.11 with Qt never enlarge an image (opencv issue 26761) and report the smaller of the image
    and the window; so a report as large as what was handed only says that the window is at least that large.
    """
    width, height = (
        seen if 0 < seen < given else min(given * 3 // 2, _LARGEST_SIDE)
        for seen, given in zip(reported, handed, strict=True)
    )
    return width, height


class _Window:
    def __init__(self, parent: socket.socket, title: str, full_screen: bool) -> None:
        self._parent = parent
        self._title = title
        self._full_screen = full_screen
        self._images: Pixels | None = None
        self._open = False
        self._handed = (0, 0)
        self._openings = _OPENINGS
        self._opened = 0.0

    def run(self) -> None:
        while True:
            # Nothing can be pressed before there is a window; afterwards its events need looking after.
            readable, _, _ = select.select([self._parent], [], [], _KEY_WAIT_S if self._open else None)
            if readable and not self._obey():
                return
            if self._open and not self._look_after():
                return

    def _obey(self) -> bool:
        """Do what the parent says; False at the end of the socket."""
        packet, descriptors, _, _ = socket.recv_fds(self._parent, PACKET_BYTES, 1)
        if not packet:
            return False
        kind, *numbers = ORDER.unpack(packet)
        if kind == CANVAS:
            slots, height, width = numbers
            self._images = map_slots(descriptors[0], slots, height, width)
            os.close(descriptors[0])
        elif self._images is not None:
            self._show(self._images[numbers[0]])
        return True

    def _show(self, image: Pixels) -> None:
        import cv2

        if self._stays_black():
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)
            self._open = False
        if not self._open:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)
            height, width = image.shape[:2]
            scale = min(1.0, _LARGEST_START[0] / width, _LARGEST_START[1] / height)
            area = max(1, round(width * scale)), max(1, round(height * scale))
            cv2.resizeWindow(self._title, *area)
            self._fill_screen(self._full_screen)
            self._open, self._opened = True, time.monotonic()
        else:
            _, _, columns, rows = cv2.getWindowImageRect(self._title)
            area = next_area((columns, rows), self._handed)
        # WINDOW_KEEPRATIO distorts when the image's ratio changes and leaves bright borders, so the borders are ours;
        # one pixel more than the window has tells whether it grew.
        fitted = cv2.copyMakeBorder(letterboxed(image, *area), 0, 1, 0, 1, cv2.BORDER_REPLICATE)
        self._handed = fitted.shape[1], fitted.shape[0]
        cv2.imshow(self._title, fitted)  # copies: the slot may go back
        self._press(cv2.waitKey(1))  # paints
        self._parent.send(REPORT.pack(SHOWN, 0, time.monotonic_ns()))

    def _stays_black(self) -> bool:
        """Whether the window was opened a while ago and Qt will never paint it; told once an opening."""
        if not (self._open and self._openings and time.monotonic() > self._opened + _PAINTED_S):
            return False
        black = is_unpainted()
        self._openings = self._openings - 1 if black else 0
        return black

    def _look_after(self) -> bool:
        """Take keys; False when the user has closed the window."""
        import cv2

        self._press(cv2.waitKey(1))
        if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1:
            return True
        self._tell(CLOSED)
        return False

    def _press(self, code: int) -> None:
        if code < 0:
            return
        key = "q" if code & 0xFF == _ESCAPE else chr(code & 0xFF).lower()
        if key == "f":
            self._fill_screen(not self._full_screen)
        if key in KEYS:
            self._tell(key)

    def _tell(self, key: str) -> None:
        self._parent.send(REPORT.pack(KEY, ord(key), 0))

    def _fill_screen(self, full: bool) -> None:
        import cv2

        self._full_screen = full
        how = cv2.WINDOW_FULLSCREEN if full else cv2.WINDOW_NORMAL
        cv2.setWindowProperty(self._title, cv2.WND_PROP_FULLSCREEN, how)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
