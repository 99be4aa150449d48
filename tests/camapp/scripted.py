"""A source that plays the script of a test."""

import time

import numpy as np

from camapp.capture.source import EndOfStream, Source, SourceOptions
from camapp.core.frames import Shot
from camapp.core.image import Image, Layout


class ScriptedSource(Source):
    """Plays a list of steps: a number of frames, seconds to sleep (float), an exception to raise, or a callable."""

    def __init__(self, *script, live=True, interval=0.0, size=(64, 48), options=None):
        super().__init__("scripted://", options or SourceOptions())
        self.live = live
        self.script = list(script)
        self.interval = interval
        self.size = size
        self.level = 127
        self.opened = 0
        self.closed = 0
        self.open_errors = []
        self._frames = 0

    def open(self):
        self.opened += 1
        if self.open_errors:
            raise self.open_errors.pop(0)

    def read(self, timeout):
        while self._frames == 0:
            if not self.script:
                raise EndOfStream
            step = self.script.pop(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, int):
                self._frames = step
            elif isinstance(step, float):
                time.sleep(step)
            else:
                step()
        self._frames -= 1
        time.sleep(self.interval)
        width, height = self.size
        image = Image.of(np.full((height, width, 3), self.level, np.uint8), Layout.RGB)
        return Shot(image, image)

    def close(self):
        self.closed += 1
