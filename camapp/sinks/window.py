"""Shows the preview in a window of a child process, and restarts that process if its display goes away."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from camapp.core.arrays import Pixels
from camapp.core.frames import Trace
from camapp.sinks.sink import ImageSink
from camapp.sinks.window_process import BROKEN, CLOSED, COMMAND, FRAME, KEY, MEMORY, PACKET_BYTES, REPORT, SHOWN
from camapp.system import displays
from camapp.system.shared_frames import NO_FRAME, Memory, ReadFrame, SharedFrames
from camapp.system.supervised_process import ChildProcess, SupervisedProcess

log = logging.getLogger(__name__)


class WindowSink(ImageSink):
    """Shows images in a window while there is a display; without one the run continues.

    Args:
        title: of the window.
        full_screen: start without a frame around the image.
        on_key: called with 'q', 's', 'h', 'f', 'p', '?', ' ' or a digit. Escape and the window's close button count as
            'q'; 'f' was already handled by the window.
        on_shown: called with a frame's number and the monotonic nanoseconds at which it was painted. Both are called
            in this sink's thread.
        retry_s: seconds between checks for a display.
        kiosk: open the window inside a kiosk compositor, on a machine without a desktop.
        answer_s: a window that does not show a frame within this time hangs, and is replaced.
    """

    reports_shown = True

    def __init__(
        self,
        title: str = "camapp",
        full_screen: bool = False,
        on_key: Callable[[str], None] = lambda key: None,
        on_shown: Callable[[int, int], None] = lambda seq, t_ns: None,
        retry_s: float = 1.0,
        kiosk: bool = False,
        answer_s: float = 10.0,
    ) -> None:
        self._probe = displays.probe_kiosk if kiosk else displays.probe
        self._wrapper = displays.KIOSK_COMMAND if kiosk else ()
        self._title = title.replace("\0", " ")
        self._full_screen = full_screen
        self._on_key = on_key
        self._on_shown = on_shown
        self._answer_s = answer_s
        self._frames = SharedFrames(self._send)
        self._has_shown = False
        self._is_warned = False
        self._defect = ""
        self._process = SupervisedProcess("window", self._spawn, self._serve, self._on_exit, retry_s)

    @property
    def alive(self) -> bool:
        """Whether a window is open and has shown an image."""
        return self._has_shown

    @property
    def may_show(self) -> bool:
        """Whether a window is open, or is about to be."""
        return self._process.running and not self._is_warned

    def start(self) -> None:
        """Look for a display and open the window, in the background."""
        self._process.start()

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Make this the image to show; an older one that was not shown yet is dropped. Costs one copy."""
        if not self._process.stopping.is_set():
            self._frames.publish(canvas, trace.seq if trace else NO_FRAME)

    def stop(self) -> None:
        """Close the window; within about two seconds, whatever its process does."""
        self._process.stop()
        self._frames.close()

    def _send(self, frame: ReadFrame, memory: Memory | None) -> bool:
        child = self._process.child
        if child is None:
            return False
        try:
            if memory is not None:
                fd, shape = memory
                socket.send_fds(child.socket, [COMMAND.pack(MEMORY, *shape)], [fd])
            child.socket.send(COMMAND.pack(FRAME, frame.slot, 0, 0))
        except OSError:  # the child is just ending; the supervising thread finds that out too
            return False
        return True

    def _spawn(self) -> ChildProcess | None:
        display = self._probe()
        if not display:
            self._warn(f"{display.reason}; the run continues without a window")
            return None
        return ChildProcess(
            "camapp.sinks.window_process",
            *(self._title, "1" if self._full_screen else "0"),
            wrapper=self._wrapper,
            # OpenCV's wheels contain only Qt's X11 plugin; by default Qt tries Wayland's first, and logs an error.
            environment={"QT_QPA_PLATFORM": "xcb"},
            keep_stderr=True,
        )

    def _serve(self, child: ChildProcess) -> None:
        """Receive the window's reports until it ends or hangs."""
        self._frames.wanted = True
        self._frames.offer()
        try:
            while True:
                if child.wait_readable(1.0):
                    try:
                        packet = child.socket.recv(PACKET_BYTES)
                    except ConnectionResetError:
                        # It left a frame unread, which the kernel reports before the child's last packets.
                        continue
                    if not packet:
                        return
                    self._receive(packet)
                if self._frames.held_s() > self._answer_s:
                    # With a grace period it might wake up and exit with 0, as after its user has closed it.
                    child.end(0)
                    return
        finally:
            self._frames.reset()
            self._has_shown = False

    def _on_exit(self, code: int | None, reason: str) -> bool:
        if self._defect:
            self._warn(f"{self._defect}; the run continues without it")
            return False
        # cage exits with 0 in any case: a screen that was unplugged is no reason to give up.
        if code == 0 and not self._wrapper:
            return False
        self._warn(f"the window is gone ({reason}); the run continues without it")
        return True

    def _warn(self, message: str) -> None:
        """Log a warning; further ones are dropped until a window has shown an image."""
        if not self._is_warned:
            log.warning("%s", message)
            self._is_warned = True

    def _receive(self, packet: bytes) -> None:
        kind, number, t_ns = REPORT.unpack_from(packet)
        if kind == SHOWN:
            self._note_shown(t_ns)
        elif kind == KEY:
            key = chr(number)
            if key != CLOSED:
                self._on_key(key)
            elif not self._wrapper:  # a kiosk's window is closed by its screen, not by a user
                self._on_key("q")
        elif kind == BROKEN:
            self._defect = explain(packet[REPORT.size :].decode(errors="replace"))

    def _note_shown(self, t_ns: int) -> None:
        frame = self._frames.release()
        if frame is None:
            return
        if not self._has_shown:
            self._has_shown = True
            self._process.reset_delay()
            if self._is_warned:
                log.info("the window is back")
                self._is_warned = False
        if frame.seq != NO_FRAME:
            self._on_shown(frame.seq, t_ns)


def explain(reason: str) -> str:
    """Return what to do about an OpenCV that cannot open windows."""
    if "libGL" in reason:
        return "no window: a system library is missing; install it with 'sudo apt install libgl1'"
    if "not implemented" in reason:
        return (
            "no window: this OpenCV was built without windows (opencv-python-headless); install opencv-python instead"
        )
    return f"no window: {reason}"
