"""Injects faults into the real program and measures the time until each is reported and until predictions resume.

python -m tests.benchmarks.fault_table [--only WORD]

Prints a Markdown table. "Found" is the time from the fault to the program's message (or its exit), "back" from the end
of the cause to the first prediction of a frame captured after it. Faults that need missing tools (Xvfb, mount) are
reported as skipped. Faults that need systemd are in tests/boot.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from camapp.scenes.scene import SceneOptions, scene_class
from camapp.system.process import cpu_seconds
from engine import nets
from engine.model import Model
from engine.runtime.convert import save
from tests.benchmarks.common import ROOT, benchmark_parser, print_conditions
from tests.camapp.desktop import Desktop

PATTERN = "pattern://digits?size=640x480&fps=30"
TITLE = "camapp: digits"
MODELS = ROOT / "weights"
# The program with the offset of its wall clock read from a file; Python's waits use the monotonic clock.
WRONG_CLOCK = """
import sys, time
from pathlib import Path
real, offset = time.time, Path(sys.argv.pop(1))
time.time = lambda: real() + float(offset.read_text() or 0)
from camapp.cli import main
main()
"""


class MissingTool(Exception):
    """A tool is missing on this machine."""


class Run:
    """A process of the program, with the times of its predictions and messages."""

    def __init__(
        self,
        *arguments: str,
        wrapper: tuple[str, ...] = (),
        program: tuple[str, ...] = ("-m", "camapp"),
        environ: dict[str, str] | None = None,
        session: bool = False,
    ) -> None:
        command = [*wrapper, sys.executable, *program, "--log", "-", "--workers", "1", *arguments]
        environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | (environ or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Without a terminal, like a service, so that SIGHUP reloads.
            start_new_session=session,
        )
        # (captured, decoded, record)
        self.predictions: list[tuple[float, float, dict[str, object]]] = []
        self.messages: list[tuple[float, str]] = []
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read_log, self._read_messages)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *what: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)
        for thread in self._threads:
            thread.join(5)

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            record = json.loads(line)
            captured = record["t_mono_ns"] / 1e9
            self.predictions.append((captured, captured + record["latency_ms"]["total"] / 1e3, record))

    def _read_messages(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.messages.append((time.monotonic(), line.strip()))

    def workers(self) -> list[int]:
        """Return the IDs of the worker processes, the active one first."""
        return self.children("camapp.workers")

    def children(self, module: str) -> list[int]:
        """Return the IDs of the child processes that run a module."""
        found = []
        # A child may end meanwhile.
        with contextlib.suppress(FileNotFoundError):
            for task in Path(f"/proc/{self.process.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    if module in Path(f"/proc/{child}/cmdline").read_text():
                        found.append(int(child))
        return sorted(found)

    def wait(self, condition: Callable[[], object], seconds: float) -> float:
        """Wait for a condition and return the time at which it became true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                text = "\n".join(line for _, line in self.messages)
                raise TimeoutError(f"not within {seconds:g} s; messages:\n{text}")
            time.sleep(0.005)
        return time.monotonic()

    def steady(self, seconds: float = 1.0) -> None:
        """Wait until it predicts and its standby worker has started and is idle, and `seconds` longer."""
        self.wait(lambda: self.predictions and len(self.workers()) == 2, 20)
        used = -1.0
        while used != (used := cpu_seconds(self.workers()[1:]).popitem()[1]):
            time.sleep(0.3)
        time.sleep(seconds)

    def reported(self, text: str, since: float, seconds: float = 15.0) -> float:
        """Return the seconds from `since` to the message with this text."""

        def found() -> list[float]:
            return [at for at, line in self.messages if at >= since and text in line]

        self.wait(found, seconds)
        return found()[0] - since

    def predicted(
        self, since: float, seconds: float = 15.0, of: Callable[[dict[str, object]], bool] = lambda _: True
    ) -> float:
        """Return the seconds from `since` to the first prediction of a frame captured after it."""

        def found() -> list[float]:
            return [done for captured, done, record in self.predictions if captured >= since and of(record)]

        self.wait(found, seconds)
        return found()[0] - since

    def gap(self, since: float) -> float:
        """Return the longest time without a prediction from `since` to now."""
        moments = [since, *(done for _, done, _ in self.predictions if done > since)]
        return max(later - earlier for earlier, later in pairwise(moments))

    def send(self, number: int) -> float:
        """Send a signal and return the time."""
        self.process.send_signal(number)
        return time.monotonic()

    def exit(self, since: float, seconds: float = 15.0) -> tuple[float, int]:
        """Wait for the exit; return the seconds from `since` and the exit code."""
        code = self.process.wait(seconds)
        return time.monotonic() - since, code


class NetCamera:
    """A local network camera (Motion JPEG over HTTP) that can disappear, stop sending or send damaged images."""

    def __init__(self, fps: float = 30.0) -> None:
        scene = scene_class("digits")(SceneOptions(size=(640, 480), fps=30, seed=3))
        shots = [cv2.cvtColor(scene.render(index)[0], cv2.COLOR_RGB2BGR) for index in range(30)]
        self._shots = [cv2.imencode(".jpg", shot)[1].tobytes() for shot in shots]
        self._small = [cv2.imencode(".jpg", cv2.resize(shot, (320, 240)))[1].tobytes() for shot in shots]
        self._period = 1 / fps
        self.silent = self.damaged = self.small = self.mute = False
        self._server: socket.socket | None = None
        self._peers: list[socket.socket] = []
        self.visits = 0
        self.port = 0
        self.plug_in()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def plug_in(self) -> float:
        """Start the server and return the time."""
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._server,), daemon=True).start()
        return time.monotonic()

    def unplug(self) -> float:
        """Stop the server and return the time."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        self._peers.clear()
        return time.monotonic()

    def _serve(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                self.visits += 1
                self._peers.append(peer)
                threading.Thread(target=self._send, args=(peer,), daemon=True).start()

    def _send(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            peer.recv(4096)
            while self.mute:
                time.sleep(0.05)
            peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=cut\r\n\r\n")
            index, due = 0, time.monotonic()
            while True:
                shot = (self._small if self.small else self._shots)[index % 30]
                if self.damaged:
                    shot = shot[:300] + bytes(len(shot) - 300)
                while self.silent:
                    time.sleep(0.01)
                head = f"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: {len(shot)}\r\n\r\n"
                peer.sendall(head.encode() + shot + b"\r\n")
                index, due = index + 1, max(due + self._period, time.monotonic() - 1)
                time.sleep(max(0.0, due - time.monotonic()))


@dataclass(frozen=True)
class Measured:
    """Result of a fault: seconds, or None if there is nothing to measure."""

    found: float | None = None
    back: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Fault:
    """Row of the table: limits in seconds, and the function that injects and measures the fault."""

    name: str
    found_in: float | None
    back_in: float | None
    inject: Callable[[Path], Measured]


FAULTS: list[Fault] = []


def fault(name: str, found: float | None = 2.0, back: float | None = 2.0) -> Callable[..., Callable[..., Measured]]:
    """Return a decorator that adds a row to the table."""

    def add(inject: Callable[[Path], Measured]) -> Callable[[Path], Measured]:
        FAULTS.append(Fault(name, found, back, inject))
        return inject

    return add


# -- workers


@fault("worker killed (SIGKILL)", back=0.5)
def kill_worker(folder: Path) -> Measured:
    with Run("--source", PATTERN) as run:
        run.steady()
        began = time.monotonic()
        os.kill(run.workers()[0], signal.SIGKILL)
        found, back = run.reported("died", began), run.predicted(began)
        time.sleep(0.5)
        return Measured(found, back, f"longest gap {run.gap(began - 0.1):.2f} s")


@fault("worker and its standby killed together")
def kill_both(folder: Path) -> Measured:
    with Run("--source", PATTERN) as run:
        run.steady()
        began = time.monotonic()
        for pid in run.workers():
            os.kill(pid, signal.SIGKILL)
        return Measured(run.reported("died", began), run.predicted(began))


@fault("worker stopped (SIGSTOP)", back=0.5)
def stop_worker(folder: Path) -> Measured:
    with Run("--source", PATTERN) as run:
        run.steady()
        began = time.monotonic()
        os.kill(run.workers()[0], signal.SIGSTOP)
        found = run.reported("hung", began)
        return Measured(found, run.predicted(began + found))


@fault("workers killed repeatedly: exit 70", back=None)
def spend_budget(folder: Path) -> Measured:
    with Run("--source", PATTERN) as run:
        run.steady()
        began = time.monotonic()
        while run.process.poll() is None and time.monotonic() < began + 30:
            for pid in run.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        seconds, code = run.exit(began)
        return Measured(seconds, note=exits(code, 70))


# -- the source


@fault("network camera disconnected and reconnected")
def lose_source(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri) as run:
        run.steady()
        found = run.reported("no image", camera.unplug())
        time.sleep(3)
        return Measured(found, run.predicted(camera.plug_in()))


@fault("network camera silent with open connection (hung read)")
def hang_read(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri) as run:
        run.steady()
        camera.silent, began = True, time.monotonic()
        found = run.reported("no image", began)
        time.sleep(1)
        camera.silent, ended = False, time.monotonic()
        return Measured(found, run.predicted(ended))


@fault("network camera sends damaged images for 2 s", found=None)
def poison(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri) as run:
        run.steady()
        camera.damaged = True
        time.sleep(2)
        camera.damaged, ended = False, time.monotonic()
        return Measured(None, run.predicted(ended))


@fault("network camera changes its image's size", found=None)
def resize(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri) as run:
        run.steady()
        camera.small, began = True, time.monotonic()
        return Measured(None, run.predicted(began))


@fault("network camera disconnected permanently (--reconnect 3): exit 69", found=3 + 2.0, back=None)
def lose_for_good(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri, "--reconnect", "3") as run:
        run.steady()
        seconds, code = run.exit(camera.unplug())
        return Measured(seconds, note=exits(code, 69))


@fault("damaged image in a folder: reported, the others predicted", found=None, back=None)
def poison_folder(folder: Path) -> Measured:
    image = scene_class("digits")(SceneOptions(size=(320, 240))).render(0)[0]
    for index in range(9):
        cv2.imwrite(str(folder / f"{index}.png"), image)
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:100])
    with Run("--source", str(folder)) as run:
        _, code = run.exit(run.began)
        time.sleep(0.2)
        was_reported = any("4.png" in line for _, line in run.messages)
        return Measured(note=checked(code == 0 and was_reported and len(run.predictions) == 8, "8 of 9 predicted"))


# -- disks


@contextlib.contextmanager
def logging_to(disk: Path) -> Iterator[Run]:
    """Start a run that logs to this folder."""
    file = disk / "log.jsonl"
    with Run("--source", PATTERN, "--log", str(file)) as run:
        run.wait(lambda: file.exists() and file.stat().st_size, 20)
        yield run


@fault("disk of the log full")
def fill_disk(folder: Path) -> Measured:
    with (
        small_disk(folder / "disk", "size=1m") as disk,
        Run("--source", PATTERN, "--log", str(disk / "log.jsonl")) as run,
    ):
        run.wait(lambda: (disk / "log.jsonl").exists() and (disk / "log.jsonl").stat().st_size, 20)
        began = time.monotonic()
        fill(disk / "ballast")
        found = run.reported("cannot write the log", began)
        time.sleep(2)
        (disk / "ballast").unlink()
        back = run.reported("written again", time.monotonic())
        kept = any("; 0 lines lost" in line for _, line in run.messages)
        return Measured(found, back, checked(kept, "no line lost"))


@fault("disk of the log read-only, then writable")
def read_only(folder: Path) -> Measured:
    with (
        small_disk(folder / "disk", "size=8m") as disk,
        Run("--source", PATTERN, "--log", str(disk / "log.jsonl")) as run,
    ):
        run.wait(lambda: (disk / "log.jsonl").exists() and (disk / "log.jsonl").stat().st_size, 20)
        began = time.monotonic()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], check=True)
        found = run.reported("cannot write the log", began)
        time.sleep(2)
        ended = time.monotonic()
        subprocess.run(["umount", disk], check=True)
        return Measured(found, run.reported("written again", ended))


@fault("disk of the clips full: counted, the next clip complete", found=15.0, back=15.0)
def fill_clips(folder: Path) -> Measured:
    with small_disk(folder / "disk", "size=4m") as disk:
        fill(disk / "ballast")
        events = ("--clip-on", "*", "--clips", str(disk), "--clip-before", "0.5", "--clip-after", "0.5")
        with Run("--source", PATTERN, *events) as run:
            run.wait(lambda: run.predictions, 20)
            found = run.reported("cannot write a clip", run.began)
            began = time.monotonic()
            (disk / "ballast").unlink()
            back = run.reported("saved", began)
            return Measured(found, back, "with the next event of the scene")


@fault("disk of the recording full: recording ends, predictions continue", found=3.0)
def fill_record(folder: Path) -> Measured:
    with (
        small_disk(folder / "disk", "size=64m") as disk,
        Run("--source", PATTERN, "--record", str(disk / "video.mp4")) as run,
    ):
        run.steady()
        began = time.monotonic()
        fill(disk / "ballast")
        found = run.reported("recording to", began)
        return Measured(found, run.predicted(began), "encoder ended; checked once per second")


# -- the display


@fault("display server stopped and restarted", found=2.0, back=2.0)
def lose_display(folder: Path) -> Measured:
    with screen() as desktop, Run("--source", PATTERN, environ={"DISPLAY": desktop.name}) as run:
        run.steady()
        run.wait(lambda: desktop.run("xdotool", "search", "--name", TITLE), 20)
        time.sleep(1)
        began = time.monotonic()
        desktop.kill()
        found = run.reported("the window is gone", began)
        time.sleep(2)
        gap = run.gap(began)
        desktop.start()
        ended = time.monotonic()
        return Measured(found, run.reported("the window is back", ended), f"longest gap in predictions {gap:.2f} s")


@fault("window's process stopped: predictions continue", found=None)
def stop_window(folder: Path) -> Measured:
    with screen() as desktop, Run("--source", PATTERN, environ={"DISPLAY": desktop.name}) as run:
        run.steady(2)
        began = time.monotonic()
        os.kill(run.children("window_process")[0], signal.SIGSTOP)
        time.sleep(3)
        return Measured(None, run.gap(began), "longest gap in predictions")


# -- settings and models


@fault("model file replaced by a damaged one: the old one is kept", found=3.0, back=0.5)
def break_model(folder: Path) -> Measured:
    model = folder / "model.npz"
    shutil.copy(MODELS / "mnist.npz", model)
    with Run("--source", PATTERN, "--model", str(model)) as run:
        run.steady()
        began = time.monotonic()
        model.write_bytes(model.read_bytes()[:20_000])
        found = run.reported("the old one stays", began)
        time.sleep(0.5)
        return Measured(found, run.gap(began), "back: longest gap in predictions")


@fault("model file replaced by another", found=None, back=4.0)
def replace_model(folder: Path) -> Measured:
    model = folder / "model.npz"
    shutil.copy(MODELS / "mnist.npz", model)
    with Run("--source", PATTERN, "--model", str(model)) as run:
        run.steady()
        shutil.copy(MODELS / "lenet.npz", folder / "next.npz")
        began = time.monotonic()
        (folder / "next.npz").replace(model)
        back = run.reported("running model", began)
        time.sleep(0.5)
        return Measured(None, back, f"longest gap in predictions {run.gap(began):.2f} s")


@fault("incomplete config on reload (SIGHUP): the old one is kept", back=0.5)
def half_config(folder: Path) -> Measured:
    config = folder / "camapp.toml"
    config.write_text('target_fps = 30\nmodel = "mnist"\n')
    with Run("--source", PATTERN, "--config", str(config), session=True) as run:
        run.steady()
        config.write_text('target_fps = 30\nmodel = "mni')
        began = run.send(signal.SIGHUP)
        found = run.reported("settings not reloaded", began)
        time.sleep(0.5)
        return Measured(found, run.gap(began), "back: longest gap in predictions")


@fault("invalid config at the start: exit 78", back=None)
def bad_config(folder: Path) -> Measured:
    config = folder / "camapp.toml"
    config.write_text("fpss = 30\n")
    return exit_of(78, "--config", str(config))


@fault("damaged model at the start: exit 78", back=None)
def bad_model(folder: Path) -> Measured:
    (folder / "model.npz").write_bytes((MODELS / "mnist.npz").read_bytes()[:20_000])
    return exit_of(78, "--model", str(folder / "model.npz"))


@fault("state directory read-only at the start: exit 77", back=None)
def unwritable(folder: Path) -> Measured:
    with small_disk(folder / "disk", "ro") as disk:
        return exit_of(77, "--source", PATTERN, "--log", str(disk / "log.jsonl"))


# -- the system


@fault("wall clock jumps one hour ahead, then two back", found=None, back=0.5)
def jump(folder: Path) -> Measured:
    offset = folder / "offset"
    offset.write_text("0")
    with Run("--source", PATTERN, program=("-c", WRONG_CLOCK, str(offset))) as run:
        run.steady()
        began = time.monotonic()
        for text in ("3600", "-3600", "0"):
            offset.write_text(text)
            time.sleep(1)
        hours = sorted({str(record["time"])[11:13] for captured, _, record in run.predictions if captured > began})
        jumped = checked(len(hours) == 3, f"records of {len(hours)} hours")
        return Measured(None, run.gap(began), f"longest gap in predictions; {jumped}")


@fault("/dev/shm is read-only: runs", found=None, back=3.0)
def no_shm(folder: Path) -> Measured:
    wrapper = unshared("mount -t tmpfs -o ro,size=4k none /dev/shm")
    with Run("--source", PATTERN, wrapper=wrapper) as run:
        return Measured(None, run.predicted(run.began), "from the start")


@fault("killed (SIGKILL): no process and nothing in /dev/shm remains", found=1.0, back=None)
def kill_run(folder: Path) -> Measured:
    shared = set(os.listdir("/dev/shm"))
    with Run("--source", PATTERN) as run:
        run.steady()
        workers = run.workers()
        began = run.send(signal.SIGKILL)
        run.process.wait(5)
        while not all(is_gone(pid) for pid in workers) and time.monotonic() < began + 5:
            time.sleep(0.005)
        found = time.monotonic() - began
        return Measured(found, note=checked(set(os.listdir("/dev/shm")) <= shared, f"{len(workers)} workers"))


# -- SIGTERM, in every phase


@fault("SIGTERM while starting (maximum of 8 moments)", back=None)
def term_starting(folder: Path) -> Measured:
    worst, codes = 0.0, set()
    for moment in (0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0):
        with Run("--source", PATTERN) as run:
            time.sleep(moment)
            seconds, code = run.exit(run.send(signal.SIGTERM))
            worst, codes = max(worst, seconds), codes | {code}
    return Measured(worst, note=checked(codes <= {0, -signal.SIGTERM}, f"ends {sorted(codes)}"))


@fault("SIGTERM while loading and planning ResNet-50 (maximum of 4 moments)", back=None)
def term_planning(folder: Path) -> Measured:
    graph, rng = nets.build("resnet50"), np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.03, shape).astype(np.float32) for name, shape in graph.parameters.items()}
    save(Model(nets.default_card("resnet50"), graph.bind(arrays)), folder / "large.npz")
    # Without saved times, so that all kernels are timed.
    environ = {"XDG_CACHE_HOME": str(folder), "ENGINE_CHOICES": ""}
    worst, codes, early = 0.0, set(), True
    for moment in (0.8, 1.4, 2.0, 3.0):
        with Run("--source", PATTERN, "--model", str(folder / "large.npz"), environ=environ) as run:
            time.sleep(moment)
            seconds, code = run.exit(run.send(signal.SIGTERM))
            worst, codes, early = max(worst, seconds), codes | {code}, early and not run.predictions
    note = checked(codes <= {0, -signal.SIGTERM}, f"ends {sorted(codes)}")
    return Measured(worst, note=f"{note}{', all before the first prediction' if early else ''}")


@fault("SIGTERM while opening (a camera that does not respond)", back=None)
def term_opening(folder: Path) -> Measured:
    camera = NetCamera()
    camera.mute = True
    with Run("--source", camera.uri) as run:
        run.wait(lambda: camera.visits, 20)
        time.sleep(0.5)
        return stopped(run)


@fault("SIGTERM while running", back=None)
def term_running(folder: Path) -> Measured:
    with Run("--source", PATTERN) as run:
        run.steady()
        return stopped(run)


@fault("SIGTERM while paused", back=None)
def term_paused(folder: Path) -> Measured:
    with screen() as desktop, Run("--source", PATTERN, environ={"DISPLAY": desktop.name}) as run:
        run.steady()
        run.wait(lambda: desktop.run("xdotool", "search", "--name", TITLE), 20)
        time.sleep(0.5)
        desktop.press(TITLE, "p")
        time.sleep(1)
        quiet = checked(run.predictions[-1][1] < time.monotonic() - 0.5, "paused")
        measured = stopped(run)
        return Measured(measured.found, note=f"{quiet}; {measured.note}")


@fault("SIGTERM while reconnecting to the camera", back=None)
def term_reconnecting(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri) as run:
        run.steady()
        run.reported("no image", camera.unplug())
        time.sleep(1)
        return stopped(run)


@fault("SIGTERM during a hung read", back=None)
def term_hung_read(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri) as run:
        run.steady()
        camera.silent = True
        time.sleep(0.5)
        return stopped(run)


@fault("SIGTERM while a worker hangs", back=None)
def term_hung_worker(folder: Path) -> Measured:
    with Run("--source", PATTERN) as run:
        run.steady()
        os.kill(run.workers()[0], signal.SIGSTOP)
        time.sleep(0.3)
        return stopped(run)


@fault("SIGTERM while recording and saving clips", back=None)
def term_recording(folder: Path) -> Measured:
    events = ("--clip-on", "*", "--clips", str(folder), "--record", str(folder / "video.mp4"))
    with Run("--source", PATTERN, *events) as run:
        run.steady(3)
        measured = stopped(run)
        whole = [path for path in folder.iterdir() if cv2.VideoCapture(str(path)).read()[0]]
        files = checked(len(whole) == len(list(folder.iterdir())) >= 2, f"{len(whole)} videos, all readable")
        return Measured(measured.found, note=f"{measured.note}; {files}")


@fault("SIGTERM twice: immediate exit", found=0.5, back=None)
def term_twice(folder: Path) -> Measured:
    camera = NetCamera()
    with Run("--source", camera.uri) as run:
        run.steady()
        camera.silent = True
        time.sleep(0.3)
        run.send(signal.SIGTERM)
        time.sleep(0.4)
        seconds, code = run.exit(run.send(signal.SIGTERM))
        return Measured(seconds, note=exits(code, 128 + signal.SIGTERM, 0))


# -- helpers


def stopped(run: Run) -> Measured:
    """Stop the run with SIGTERM and check that it ends in order."""
    seconds, code = run.exit(run.send(signal.SIGTERM))
    time.sleep(0.1)
    messages = "\n".join(line for _, line in run.messages)
    tidy = "captured" not in messages or ("in flight 0" in messages and "ADD UP" not in messages)
    return Measured(seconds, note=f"{exits(code, 0)}; {checked(tidy, 'frames conserved')}")


def exit_of(expected: int, *arguments: str) -> Measured:
    """Run until the program exits with an error, and check that it prints one line."""
    with Run(*arguments) as run:
        seconds, code = run.exit(run.began)
        time.sleep(0.1)
        lines = [line for _, line in run.messages if line.startswith("camapp: ")]
        return Measured(seconds, note=f"{exits(code, expected)}; {checked(len(lines) == 1, 'one error line')}")


def exits(code: int, *expected: int) -> str:
    """Return the exit code as text."""
    return checked(code in expected, f"exit {code}")


def checked(good: bool, text: str) -> str:
    """Return the text, with a mark that `row` counts as a failure if not `good`."""
    return text if good else f"WRONG: {text}"


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if its new parent has not reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def fill(path: Path) -> None:
    """Fill a disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x")


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small disk.

    Raises:
        MissingTool: it needs root.
    """
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        raise MissingTool("root, to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def unshared(script: str) -> tuple[str, ...]:
    """Return a wrapper that runs a script in a private mount namespace, then the program.

    Raises:
        MissingTool: it needs root.
    """
    wrapper = ("unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh")
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        raise MissingTool("root, for a mount namespace")
    return wrapper


@contextlib.contextmanager
def screen() -> Iterator[Desktop]:
    """Start an X server.

    Raises:
        MissingTool: Xvfb or xdotool is not installed.
    """
    if not all(map(shutil.which, ("Xvfb", "xdotool"))):
        raise MissingTool("Xvfb and xdotool")
    desktop = Desktop()
    try:
        yield desktop
    finally:
        desktop.kill()


def row(item: Fault) -> tuple[str, bool]:
    """Inject a fault; return its line of the table and whether it is within its limits."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            measured = item.inject(Path(folder))
        except MissingTool as tool:
            return f"| {item.name} | | | | | skipped: needs {tool} |", True
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            print(f"{item.name}: {error}", file=sys.stderr)
            limits = f"{_seconds(item.found_in)} | | {_seconds(item.back_in)}"
            return f"| {item.name} | {limits} | | **no**: {str(error)[:60]} |", False
    pairs = ((measured.found, item.found_in), (measured.back, item.back_in))
    good = all(value is None or bound is None or value <= bound for value, bound in pairs)
    good = good and "WRONG" not in measured.note
    cells = [_seconds(item.found_in), _seconds(measured.found), _seconds(item.back_in), _seconds(measured.back)]
    return f"| {item.name} | {' | '.join(cells)} | {'yes' if good else '**no**'} {measured.note} |", good


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"


def main(faults: Sequence[Fault] = FAULTS) -> None:
    parser = benchmark_parser()
    parser.add_argument("--only", default="", help="run only faults whose function name contains this text")
    options = parser.parse_args()
    print_conditions()
    print("| fault | found limit | found | back limit | back | passed |")
    print("|---|---|---|---|---|---|")
    failures = 0
    for item in faults:
        if options.only in item.inject.__name__:
            line, good = row(item)
            print(line, flush=True)
            failures += not good
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
