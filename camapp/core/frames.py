"""Defines shots, frames, ground truth, and the time stamps of a frame on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from camapp.core.predictions import Box, Point, Polyline

if TYPE_CHECKING:
    from camapp.core.ground_camera import GroundCamera
    from camapp.core.image import Image


@dataclass(frozen=True, slots=True)
class Truth:
    """Holds the ground truth of a generated or labelled image, in its pixels; `values` as in a Prediction."""

    label: str = ""
    boxes: tuple[Box, ...] = ()
    lines: Sequence[Polyline] = ()
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shot:
    """Holds one moment as a source delivers it, in one or two resolutions.

    Attributes:
        view: the image to show, in the device's own layout.
        model_view: image that the model crops from; same field of view as `view` (a Pi's lores stream), or `view`.
        sensor_ns: monotonic nanoseconds of the exposure; 0 if unknown.
        truth: ground truth in pixels of the view, if known.
        name: name of the image's file, if any.
        moment_ns: position in the source's own time (such as of a video file), for filters; None uses the capture's.
        still: whether the image is independent of the one before.
        camera: the camera over the ground, in pixels of the view, if the source knows it.
    """

    view: Image
    model_view: Image
    sensor_ns: int = 0
    truth: Truth | None = None
    name: str = ""
    moment_ns: int | None = None
    still: bool = False
    camera: GroundCamera | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """Numbers a shot: `seq` counts the frames captured in this run, from 0, without gaps."""

    seq: int
    shot: Shot

    @classmethod
    def still(cls, image: Image) -> Frame:
        """Make a frame of a single image."""
        return cls(0, Shot(image, image, still=True))

    @property
    def view(self) -> Image:
        """Return the image to show."""
        return self.shot.view

    @property
    def model_view(self) -> Image:
        """Return the image that the model crops from."""
        return self.shot.model_view

    @property
    def model_to_view(self) -> Point:
        """Return the factors (sx, sy) from a point in `model_view` to the point in `view`."""
        view, model = self.shot.view, self.shot.model_view
        return view.width / model.width, view.height / model.height


@dataclass(slots=True)
class Trace:
    """Holds the monotonic nanoseconds of one frame at each stage; 0 = not reached. Each field has one writer."""

    seq: int
    sensor: int = 0
    captured: int = 0
    taken: int = 0
    prepared: int = 0
    infer_start: int = 0
    infer_end: int = 0
    decoded: int = 0
    shown: int = 0

    def latency_ms(self) -> dict[str, float]:
        """Return milliseconds per stage; `queue` is all waiting, `overhead` all but prepare and infer."""
        prepare = self.prepared - self.taken
        infer = self.infer_end - self.infer_start
        decode_from = self.infer_end or self.prepared
        queue = (self.taken - self.captured) + (max(0, self.infer_start - self.prepared))
        start = self.sensor or self.captured
        spans = {
            "capture": self.captured - start,
            "prepare": prepare,
            "queue": queue,
            "infer": infer,
            "decode": self.decoded - decode_from,
            "total": self.decoded - start,
            "overhead": self.decoded - self.captured - prepare - infer,
        }
        return {name: span / 1e6 for name, span in spans.items()}
