"""A camera's run as the page sees it, without one: pictures and predictions come when a test says so."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from camapp.core.errors import PoolError
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Layout, Picture
from camapp.core.predictions import Prediction
from camapp.core.settings import load_settings
from camapp.core.stats import Balance
from camapp.core.status import Hud, State, Status


class StandIn:
    """Obeys the page, and shows what it is told to."""

    def __init__(self, folder: Path, name="camera", **settings):
        given = {"source": "pattern://digits", "name": name, "snapshots": folder / "snapshots"}
        self.name = name
        self.settings = load_settings(given | settings, environment={})
        self.prediction_sinks = []
        self.picture_sinks = []
        self.renderer = SimpleNamespace(show_hud=True)
        self.paused = False
        self.refuses = ""
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
            task="digits",
            labels=("0", "1"),
            size=(320, 240),
            roi=self.settings.roi,
            uptime_s=12.0,
        )

    def pause(self, held):
        self.paused = held

    def change(self, settings):
        if self.refuses:
            raise PoolError(self.refuses)
        self.settings = settings

    def wanted(self):
        return any(sink.wanted() for sink in self.picture_sinks)

    def film(self, size=(320, 240), grey=None):
        """One frame: a prediction, and a picture if one is wanted."""
        seq, self._seq = self._seq, self._seq + 1
        trace = Trace(seq, captured=time.monotonic_ns(), decoded=time.monotonic_ns())
        width, height = size
        canvas = np.full((height, width, 3), seq % 256 if grey is None else grey, np.uint8)
        picture = Picture.of(canvas, Layout.BGR)
        prediction = Prediction(seq, "digits", label=str(seq % 10), score=0.9, model="mnist")
        for sink in self.prediction_sinks:
            sink.accept(prediction, Frame(seq, Shot(picture, picture)), trace)
        if self.wanted():
            for sink in self.picture_sinks:
                sink.show(canvas, trace)
        return seq
