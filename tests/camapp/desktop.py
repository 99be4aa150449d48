"""Starts an X server for tests, without a screen."""

from __future__ import annotations

import os
import subprocess
import time

import cv2
import numpy as np


class Desktop:
    """Runs an X server that can be killed and started again under the same name."""

    def __init__(self) -> None:
        # No other server takes this number while this one is down.
        self.name = f":{100 + os.getpid() % 50000}"
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        reading, writing = os.pipe()
        options = ["-screen", "0", "800x600x24", "-nolisten", "tcp", "-noreset"]
        command = ["Xvfb", self.name, "-displayfd", str(writing), *options]
        self._server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        with os.fdopen(reading) as number:
            self.name = f":{number.readline().strip()}"

    def kill(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait(10)
            self._server = None

    def run(self, *command: str) -> bytes:
        return subprocess.run(command, env={**os.environ, "DISPLAY": self.name}, capture_output=True, timeout=10).stdout

    def image(self) -> np.ndarray:
        for _ in range(20):
            if encoded := self.run("import", "-window", "root", "png:-"):
                break
            time.sleep(0.2)  # `import` fails if a window closes meanwhile
        return np.asarray(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR))

    def press(self, title: str, key: str) -> None:
        self.run("xdotool", "search", "--name", title, "windowfocus", "key", key)
