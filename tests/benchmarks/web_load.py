"""Measures the cost of web clients at 1280x720 and 30 fps: lost frames, CPU, latency from capture to the client.

python -m tests.benchmarks.web_load [--seconds 10] [--clients 20] [--fps 30] [--browser]

A clock is drawn into each image at capture and read back from the JPEG files that a client receives, or (with
--browser) from the page in a headless Chromium. The last row runs the server in a thread instead of a process.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

from camapp.capture.source import Source, SourceOptions
from camapp.core.frames import Shot
from camapp.core.image import Image, Layout
from camapp.core.settings import load_settings
from camapp.pipeline.pipeline import Pipeline
from camapp.remote.web import server
from camapp.remote.web.interface import WebInterface
from camapp.scenes.scene import SceneOptions, scene_class
from camapp.system.process import cpu_seconds
from camapp.system.supervised_process import ChildProcess
from tests.benchmarks.common import benchmark_parser, print_conditions

SIZE = (1280, 720)
# The clock: 16 bits of wall-clock milliseconds and their parity, one block each, beside the overlay's text.
BITS, BLOCK, LEFT, TOP = 17, 16, 640, 24


class ClockSource(Source):
    """Yields prepared images with the clock drawn in; the cost is one copy per frame."""

    def __init__(self, fps: float) -> None:
        super().__init__("clock://", SourceOptions())
        self.live, self.fps = True, fps
        scene = scene_class("digits")(SceneOptions(size=SIZE, fps=self.fps, seed=3, count=3))
        self._images = [scene.render(index)[0] for index in range(15)]

    def open(self) -> None:
        self._start, self._index = time.monotonic(), 0

    def read(self, timeout: float) -> Shot:
        self._index = max(self._index + 1, int((time.monotonic() - self._start) * self.fps))
        time.sleep(max(0.0, self._start + self._index / self.fps - time.monotonic()))
        pixels = self._images[self._index % len(self._images)].copy()
        draw_clock(pixels, int(time.time() * 1000))
        image = Image.of(pixels, Layout.RGB)
        return Shot(image, image)

    def close(self) -> None:
        pass


def draw_clock(pixels: np.ndarray, ms: int) -> None:
    value = ms & 0xFFFF
    bits = [value >> bit & 1 for bit in range(16)]
    for column, bit in enumerate([*bits, sum(bits) & 1]):
        pixels[TOP : TOP + BLOCK, LEFT + column * BLOCK : LEFT + (column + 1) * BLOCK] = 255 * bit


def read_clock(pixels: np.ndarray) -> int | None:
    row = pixels[TOP + BLOCK // 2, LEFT + BLOCK // 2 : LEFT + BITS * BLOCK : BLOCK].reshape(BITS, -1)[:, 0] > 127
    value = sum(1 << bit for bit in range(16) if row[bit])
    return value if sum(map(int, row[:16])) & 1 == int(row[16]) else None


# The clients run in another process, so that they do not hold the run's GIL; only the first one decodes its images.
CLIENTS = """
import asyncio, sys, time, json
import cv2, numpy as np
sys.path.insert(0, ".")
from tests.benchmarks.web_load import read_clock
cv2.setNumThreads(1)
port, count, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
async def receive(number, out):
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(b"GET /stream.mjpg HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    images, first, ages, seqs, size = 0, 0.0, [], [], 0
    while time.monotonic() - begun < seconds:
        head = await reader.readuntil(b"X-Seq: ")
        seq = int(await reader.readline())
        length = int(head.rpartition(b"Content-Length: ")[2].split()[0])
        await reader.readline()
        # uvicorn sends an image as one chunk that begins with these lines: the rest is the image.
        jpeg = await reader.readexactly(length)
        first = first or time.monotonic() - begun
        images, size = images + 1, size + length
        seqs.append(seq)
        if number == 0:
            value = read_clock(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
            if value is not None:
                ages.append((int(time.time() * 1000) - value) & 0xFFFF)
    span = time.monotonic() - begun
    out.append({"fps": images / span, "first": first, "ages": ages, "bytes": size, "images": images})
    writer.transport.abort()
async def main():
    out = []
    await asyncio.gather(*(receive(number, out) for number in range(count)))
    print(json.dumps(out))
asyncio.run(main())
"""


class InThread(ChildProcess):
    """Runs the server in a thread of the run instead of a process."""

    exit_reason = "ended"  # type: ignore[assignment]

    def __init__(self, module: str, *arguments: str, fds: list[int], **options: object) -> None:
        self.socket, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.started, self.pid = time.monotonic(), os.getpid()
        listener = socket.socket(fileno=os.dup(fds[0]))
        self._thread = threading.Thread(target=server.serve, args=(end, listener), daemon=True)
        self._thread.start()

    def wait_readable(self, timeout: float) -> bool:
        return bool(select.select([self.socket], [], [], max(0.0, timeout))[0])

    def end(self, grace_s: float) -> int:
        self.hang_up()
        self._thread.join(grace_s)
        return 0


def measure(clients: int, seconds: float, fps: float, web: bool = True, in_thread: bool = False) -> str:
    """Return a row of the table."""
    given = {"source": "pattern://digits", "workers": 1, "display": "none"}
    settings = load_settings(given, environment={})
    source = ClockSource(fps)
    pipeline = Pipeline(settings, source=source)
    interface = (
        WebInterface([pipeline], "127.0.0.1:0", state=Path(tempfile.mkdtemp()), print_line=lambda text: None)
        if web
        else None
    )
    with mock.patch("camapp.remote.web.interface.ChildProcess", InThread) if in_thread else nullcontext():
        if interface is not None:
            interface.attach()
            interface.start()
        run = threading.Thread(target=pipeline.run, daemon=True)
        run.start()
        time.sleep(5)
        before, since = pipeline.stats.balance(), time.monotonic()
        pids = [os.getpid(), *([interface.pid] if interface and interface.pid and not in_thread else [])]
        cpu = cpu_seconds(pids)
        results = []
        if clients and interface is not None:
            command = [sys.executable, "-c", CLIENTS, str(interface.address.port), str(clients), str(seconds)]
            # In another session, which the kernel schedules as a separate group: they stand for other machines.
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, timeout=seconds + 60, check=True, start_new_session=True
            )
            results = json.loads(done.stdout)
        else:
            time.sleep(seconds)
        after, span = pipeline.stats.balance(), time.monotonic() - since
        used = {pid: cpu_seconds([pid]).get(pid, 0.0) - cpu.get(pid, 0.0) for pid in pids}
        decoded = pipeline.stats.latency["total"].at(50, 95, last=int(seconds * fps))
        pipeline.request_stop("measured")
        run.join(10)
        if interface is not None:
            interface.stop()
    captured, predicted = after.captured - before.captured, after.predicted - before.predicted
    dropped = sum(after.dropped.values()) + sum(after.failed.values())
    dropped -= sum(before.dropped.values()) + sum(before.failed.values())
    row = f"{captured:8d} {predicted:9d} {dropped:5d} {used[pids[0]] / max(1, captured) * 1e3:8.1f}"
    row += f" {100 * used[pids[1]] / span:8.0f}" if len(pids) > 1 else f" {'-':>8}"
    row += f" {decoded[0]:7.1f} {decoded[1]:7.1f}"
    if results:
        rates = sorted(result["fps"] for result in results)
        ages = sorted(age for result in results for age in result["ages"])
        first = max(result["first"] for result in results)
        size = sum(result["bytes"] for result in results) / sum(result["images"] for result in results)
        row += f" {rates[0]:6.1f} {rates[len(rates) // 2]:6.1f} {1e3 * first:8.0f}"
        row += f" {ages[len(ages) // 2]:6d} {ages[int(0.95 * len(ages))]:6d} {size / 1e3:6.0f}"
    return row


# Runs in the page: reads the clock from the displayed image at each repaint.
READ_CLOCK = """async (seconds) => {
  const image = document.getElementById("image"), canvas = document.createElement("canvas"), ages = [];
  [canvas.width, canvas.height] = [BITS, 1];
  const c = canvas.getContext("2d", { willReadFrequently: true }), until = performance.now() + 1000 * seconds;
  c.imageSmoothingEnabled = false;
  let last = -1;
  while (performance.now() < until) {
    await new Promise(requestAnimationFrame);
    if (!image.naturalWidth) continue;
    c.drawImage(image, LEFT, TOP + BLOCK / 2, BITS * BLOCK, 1, 0, 0, BITS, 1);
    const pixels = c.getImageData(0, 0, BITS, 1).data;
    let value = 0, odd = 0;
    for (let bit = 0; bit < 16; bit++) if (pixels[4 * bit] > 127) { value |= 1 << bit; odd ^= 1; }
    if (odd !== +(pixels[64] > 127) || value === last) continue;
    last = value;
    ages.push((Date.now() - value) & 0xffff);
  }
  return ages;
}"""


def measure_browser(seconds: float, fps: float) -> None:
    """Print the latency from capture to paint in a browser, and the time to the first image of the page."""
    from playwright.sync_api import sync_playwright

    settings = load_settings({"source": "pattern://digits", "workers": 1, "display": "none"}, environment={})
    pipeline = Pipeline(settings, source=ClockSource(fps))
    interface = WebInterface([pipeline], "127.0.0.1:0", state=Path(tempfile.mkdtemp()), print_line=lambda text: None)
    interface.attach()
    interface.start()
    run = threading.Thread(target=pipeline.run, daemon=True)
    run.start()
    script = READ_CLOCK
    for name, value in {"BITS": BITS, "BLOCK": BLOCK, "LEFT": LEFT, "TOP": TOP}.items():
        script = script.replace(name, str(value))
    try:
        time.sleep(5)
        with sync_playwright() as driver:
            flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = browser.new_page()
            weight: list[int] = []
            page.on("response", lambda answer: weight.append(int(answer.headers.get("content-length", 0))))
            page.goto(interface.address.url)
            shown = page.evaluate(
                "async () => { while (!document.getElementById('image').naturalWidth)"
                " await new Promise(requestAnimationFrame); return performance.now(); }"
            )
            before = pipeline.stats.balance()
            ages = sorted(page.evaluate(script, seconds))
            after = pipeline.stats.balance()
            browser.close()
    finally:
        pipeline.request_stop("measured")
        run.join(10)
        interface.stop()
    print(f"browser: page weight {sum(weight) / 1e3:.0f} kB, first image {shown:.0f} ms after the page was requested")
    print(
        f"browser: capture to paint p50 {ages[len(ages) // 2]} ms, p95 {ages[int(0.95 * len(ages))]} ms, "
        f"{len(ages) / seconds:.1f} images/s; captured {after.captured - before.captured}, "
        f"predicted {after.predicted - before.predicted}"
    )


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    parser.add_argument("--clients", type=int, default=20, help="number of clients")
    parser.add_argument("--fps", type=float, default=30.0, help="frame rate of the camera")
    parser.add_argument("--rounds", type=int, default=1, help="number of tables")
    parser.add_argument("--browser", action="store_true", help="measure in a headless Chromium (needs playwright)")
    options = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print_conditions()
    if options.browser:
        measure_browser(options.seconds, options.fps)
        return
    print(
        f"{'':<24} captured predicted  lost  run ms/f server % dec p50 dec p95 "
        "fps min    med first ms age50  age95 kB/img"
    )
    for _ in range(options.rounds):
        rows = (
            ("no page", {"clients": 0, "web": False}),
            ("page, no client", {"clients": 0}),
            ("1 client", {"clients": 1}),
            (f"{options.clients} clients", {"clients": options.clients}),
            (f"{options.clients}, server in a thread", {"clients": options.clients, "in_thread": True}),
        )
        for name, arguments in rows:
            print(f"{name:<24} {measure(seconds=options.seconds, fps=options.fps, **arguments)}", flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
