"""The preview window, seen from the run: a child process that may die with its display, and is started again."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable

from camapp.core.arrays import Pixels
from camapp.core.frames import Trace
from camapp.sinks.sink import ImageSink
from camapp.sinks.window_process import BROKEN, CANVAS, CLOSED, FRAME, KEY, ORDER, PACKET_BYTES, REPORT, SHOWN
from camapp.system import displays
from camapp.system.process import start_child
from camapp.system.shared_frames import ReadFrame, SharedFrames

log = logging.getLogger(__name__)

_NOTICE = -1  # seq of an image that is no frame
_LONGEST_RETRY_S = 30.0
_ANSWER_S = 10.0  # a window that has not shown a frame for so long hangs
_GOODBYE_S = 1.0


class WindowSink(ImageSink):
    """Shows images in a window when there is a display, and goes on without one when there is not.

    While the display is away it is looked for every second.

    Args:
        title: the window's.
        full_screen: start without a frame around it.
        on_key: called with 'q', 's', 'h', 'f', 'p' or ' '. Escape and the window's close button count as 'q'; 'f' has
            already been obeyed.
        on_shown: called with a frame's number and the monotonic nanoseconds at which it was painted. Both are called
            in this sink's thread.
        retry_s: seconds between looking for a display.
        kiosk: open the window inside a kiosk of its own, on a machine without a desktop.
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
    ) -> None:
        self._probe = displays.probe_kiosk if kiosk else displays.probe
        self._shell = displays.KIOSK_SHELL if kiosk else ()
        self._title = title.replace("\0", " ")
        self._full_screen = full_screen
        self._on_key = on_key
        self._on_shown = on_shown
        self._retry_s = retry_s
        self._canvas = SharedFrames(readers=1)
        self._lock = threading.Lock()
        self._peer: socket.socket | None = None
        self._in_hand: ReadFrame | None = None
        self._last_serial = 0
        self._told_generation = 0
        self._answer_due = 0.0
        self._has_shown = False
        self._said = ""
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="window", daemon=True)

    @property
    def alive(self) -> bool:
        """A window is open and has shown an image."""
        return self._has_shown

    def start(self) -> None:
        """Look for a display and open the window, in the background."""
        self._thread.start()

    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Make this the image to show; one not yet shown is forgotten. Costs one copy."""
        if self._stop_event.is_set():
            return
        self._canvas.publish(canvas, trace.seq if trace else _NOTICE)
        self._offer()

    def stop(self) -> None:
        """Close the window; within about two seconds, whatever its process does."""
        self._stop_event.set()
        with self._lock:
            if self._peer is not None:
                self._peer.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(2 * _GOODBYE_S)
        self._canvas.close()

    def _offer(self) -> None:
        """Hand the newest frame to the window unless it still has one in hand."""
        with self._lock:
            if self._peer is None or self._in_hand is not None:
                return
            taken = self._canvas.take(self._last_serial)
            if taken is None:
                return
            try:
                if taken.generation != self._told_generation:
                    self._tell_canvas(self._peer)
                    self._told_generation = taken.generation
                self._peer.send(ORDER.pack(FRAME, taken.slot, 0, 0))
            except OSError:  # it is just ending; the supervisor sees that too
                self._canvas.release(taken)
                return
            self._in_hand, self._last_serial = taken, taken.serial
            self._answer_due = time.monotonic() + _ANSWER_S

    def _tell_canvas(self, peer: socket.socket) -> None:
        height, width = self._canvas.size
        socket.send_fds(peer, [ORDER.pack(CANVAS, self._canvas.slots, height, width)], [self._canvas.fd])

    def _supervise(self) -> None:
        wait = self._retry_s
        while not self._stop_event.is_set():
            display = self._probe()
            if not display:
                self._say(f"{display.reason}; the run goes on without a window")
            else:
                trouble, lasting = self._run_child()
                shown, self._has_shown = self._has_shown, False
                if trouble and not self._stop_event.is_set():
                    self._say(f"{trouble}; the run goes on without it")
                if lasting:
                    return
                wait = self._retry_s if shown else min(2 * wait, _LONGEST_RETRY_S)
            self._stop_event.wait(wait)

    def _say(self, message: str) -> None:
        """Warn, once until a window was seen again."""
        if not self._said:
            log.warning("%s", message)
            self._said = message

    def _run_child(self) -> tuple[str, bool]:
        """A window's life; why it ended ('' when it was closed), and whether that is for good."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                try:
                    child = self._spawn(theirs)
                except OSError as error:
                    return f"cannot start the window's process: {error}", False
            with self._lock:
                self._peer, self._told_generation, self._last_serial = ours, 0, 0
            if self._stop_event.is_set():  # `stop` may have come before there was a socket to close
                ours.shutdown(socket.SHUT_RDWR)
            trouble = ""
            noise = bytearray()
            try:
                self._offer()
                trouble = self._listen(ours, child, noise)
            finally:
                with self._lock:
                    self._peer = None
                    if self._in_hand is not None:
                        self._canvas.release(self._in_hand)
                        self._in_hand = None
        code = _end(child)
        if trouble:
            return trouble, True
        # cage ends with 0 whatever happened: a screen that was unplugged is no reason to give up.
        if code == 0 and not self._shell:
            return "", True
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = _last_line(noise)
        return f"the window is gone ({how}{': ' + why if why else ''})", False

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        return start_child(
            "camapp.sinks.window_process",
            *(str(theirs.fileno()), self._title, "1" if self._full_screen else "0"),
            fds=[theirs.fileno()],
            before=self._shell,
            # OpenCV's wheels carry Qt's X11 plugin alone; left to itself Qt tries Wayland's first, and complains.
            environment={"QT_QPA_PLATFORM": "xcb"},
            stderr=subprocess.PIPE,
        )

    def _listen(self, peer: socket.socket, child: subprocess.Popen[bytes], noise: bytearray) -> str:
        """Hear the window out until it ends; what it says is wrong with this OpenCV, or ''."""
        trouble = ""
        assert child.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(peer, selectors.EVENT_READ)
            selector.register(child.stderr, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(timeout=1.0):
                    if key.fileobj is child.stderr:
                        chunk = os.read(child.stderr.fileno(), 4096)
                        noise += chunk
                        del noise[:-4096]
                        if not chunk:
                            selector.unregister(child.stderr)
                        continue
                    try:
                        packet = peer.recv(PACKET_BYTES)
                    except ConnectionResetError:
                        continue  # it left a frame unread, which the kernel tells before the child's last words
                    if not packet:
                        return trouble
                    trouble = self._hear(packet) or trouble
                if self._in_hand is not None and time.monotonic() > self._answer_due:
                    child.kill()

    def _hear(self, packet: bytes) -> str:
        kind, number, t_ns = REPORT.unpack_from(packet)
        if kind == SHOWN:
            self._note_shown(t_ns)
        elif kind == KEY:
            key = chr(number)
            if key != CLOSED:
                self._on_key(key)
            elif not self._shell:  # a kiosk's window is closed by its screen, not by a user
                self._on_key("q")
        elif kind == BROKEN:
            return _explained(packet[REPORT.size :].decode(errors="replace"))
        return ""

    def _note_shown(self, t_ns: int) -> None:
        with self._lock:
            taken, self._in_hand = self._in_hand, None
        if taken is None:
            return
        self._canvas.release(taken)
        self._offer()
        if not self._has_shown:
            self._has_shown = True
            if self._said:
                log.info("the window is back")
                self._said = ""
        if taken.seq != _NOTICE:
            self._on_shown(taken.seq, t_ns)


def _end(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child whose socket is closed; kill it if it does not go."""
    try:
        code = child.wait(_GOODBYE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait(_GOODBYE_S)
    assert child.stderr is not None
    child.stderr.close()
    return code


def _explained(reason: str) -> str:
    """What to do about an OpenCV that cannot open windows."""
    if "libGL" in reason:
        return "no window: a system library is missing; install it with 'sudo apt install libgl1'"
    if "not implemented" in reason:
        return (
            "no window: this OpenCV was built without windows (opencv-python-headless); install opencv-python instead"
        )
    return f"no window: {reason}"


def _last_line(noise: bytearray) -> str:
    """The last thing said on stderr that is no complaint about fonts."""
    lines = [line.strip() for line in noise.decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and "font" not in line.lower()]
    return telling[-1] if telling else ""
