"""Provides a stand-in for a camera's run: a test makes its images and predictions."""

import math
import time
from pathlib import Path

import numpy as np

from camapp.core.errors import PoolError
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Prediction
from camapp.core.settings import load_settings
from camapp.core.stats import Balance
from camapp.core.status import Hud, State, Status
from camapp.sinks.sink import ImageSink, PredictionSink


class StandIn:
    """Implements `CameraControl` without a pipeline, and keeps the sinks."""

    def __init__(self, folder: Path, name="camera", **settings):
        given = {"source": "pattern://digits", "name": name, "snapshots": folder / "snapshots"}
        self.name = name
        self.settings = load_settings(given | settings, environment={})
        self.prediction_sinks = []
        self.image_sinks = []
        self.hud_shown = True
        self.board = None
        self.paused = False
        self.refuses = ""
        self.task = "digits"
        self.labels = ("0", "1")
        self._seq = 0

    def status(self):
        return Status(
            camera=self.name,
            state=State.PAUSED if self.paused else State.RUNNING,
            reason="",
            figures=Hud(camera_fps=30.0, infer_fps=29.9, target_fps=30.0, drops={"late": 2}),
            balance=Balance(100, 98, {"late": 2}, {}, 0, 0),
            latency_ms={"total": (4.0, 6.0, 9.0)},
            prediction=None,
            age_s=0.1,
            task=self.task,
            labels=self.labels,
            size=(320, 240),
            roi=self.settings.roi,
            uptime_s=12.0,
        )

    def add_sink(self, sink):
        if isinstance(sink, PredictionSink):
            self.prediction_sinks.append(sink)
        if isinstance(sink, ImageSink):
            self.image_sinks.append(sink)

    def set_hud(self, shown):
        self.hud_shown = shown

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def apply(self, change):
        if self.refuses:
            raise PoolError(self.refuses)
        self.settings = change(self.settings)

    def wanted(self):
        return any(sink.wanted() for sink in self.image_sinks)

    def film(self, size=(320, 240), grey=None):
        """Make one frame: a prediction, and an image if a sink wants one."""
        seq, self._seq = self._seq, self._seq + 1
        trace = Trace(seq, captured=time.monotonic_ns(), decoded=time.monotonic_ns())
        width, height = size
        canvas = np.full((height, width, 3), seq % 256 if grey is None else grey, np.uint8)
        image = Image.of(canvas, Layout.BGR)
        prediction = Prediction(seq, "digits", label=str(seq % 10), score=0.9, model="mnist", values={"m": math.nan})
        for sink in self.prediction_sinks:
            sink.accept(prediction, Frame(seq, Shot(image, image)), trace)
        if self.wanted():
            for sink in self.image_sinks:
                sink.show(canvas, trace)
        return seq
