"""A web server on this machine that serves one file, with every awkward answer that was seen."""

import contextlib
import http.server
import threading
from dataclasses import dataclass, field

DATA = bytes(range(256)) * 1000


@dataclass
class Served:
    """What the server answers: `body` from the requested byte on, and what it does otherwise."""

    body: bytes = DATA
    ranges: bool = True
    status: int = 200
    kind: str = "application/octet-stream"
    stop_after: int | None = None
    length: int | None = None
    redirects: list[str] = field(default_factory=list)
    silent: bool = False
    pause: float = 0.0
    content_range: str | None = None
    requested: list[str | None] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def server(**options):
    """Serve one file; `stop_after` truncates the first answer only. Yields what is served, to be changed at will."""
    served = Served(**options)
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if served.redirects:
                self.send_response(302)
                self.send_header("Location", served.redirects.pop(0))
                self.end_headers()
                return
            wanted = self.headers.get("Range")
            served.requested.append(wanted)
            if served.silent:
                over.wait(10)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and served.ranges else 0
            status, body = served.status, served.body[start:]
            if status == 200 and start:
                status = 206 if body else 416
            self.send_response(status)
            self.send_header("Content-Type", served.kind)
            if served.length != -1:
                self.send_header("Content-Length", str(len(body) if served.length is None else served.length))
            if status == 206:
                self.send_header("Content-Range", served.content_range or f"bytes {start}-{start + len(body) - 1}/*")
            self.end_headers()
            first = len(served.requested) == 1
            with contextlib.suppress(OSError):
                if served.pause:
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        if over.wait(served.pause):
                            return
                self.wfile.write(body[: served.stop_after] if served.stop_after and first else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.url = f"http://127.0.0.1:{made.server_address[1]}/file"
        try:
            yield served
        finally:
            over.set()
            made.shutdown()
            thread.join(5)
