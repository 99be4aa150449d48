"""What crosses every boundary: frames in, predictions out, and the time stamps of the way between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from camapp.core.predictions import Box, Point, Polyline

if TYPE_CHECKING:
    from camapp.core.image import Image


@dataclass(frozen=True, slots=True)
class Truth:
    """What a generated or labelled image really shows, in its own pixels; `values` as in a Prediction."""

    label: str = ""
    boxes: tuple[Box, ...] = ()
    lines: tuple[Polyline, ...] = ()
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shot:
    """What a source hands over: one moment, perhaps at two resolutions.

    Attributes:
        view: the image to show, in the device's own layout.
        model_view: what the model crops from; same field of view as `view` (a Pi's lores stream), or `view` itself.
        sensor_ns: monotonic nanoseconds of the exposure; 0 where the device does not tell.
        truth: in the view's pixels, where the source knows it.
        name: file the image came from, if any.
        moment_ns: place in the source's own time (of a video file, say), for filters; None takes the capture's.
        still: an image by itself, with nothing to do with the one before.
    """

    view: Image
    model_view: Image
    sensor_ns: int = 0
    truth: Truth | None = None
    name: str = ""
    moment_ns: int | None = None
    still: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """A numbered shot. `seq` counts every frame captured in this run, from 0, without gaps."""

    seq: int
    shot: Shot

    @classmethod
    def still(cls, image: Image) -> Frame:
        """An image by itself."""
        return cls(0, Shot(image, image, still=True))

    @property
    def view(self) -> Image:
        """The image to show."""
        return self.shot.view

    @property
    def model_view(self) -> Image:
        """The image the model crops from."""
        return self.shot.model_view

    @property
    def model_to_view(self) -> Point:
        """(sx, sy): multiply a point in `model_view` by it to get the point in `view`."""
        view, model = self.shot.view, self.shot.model_view
        return view.width / model.width, view.height / model.height


@dataclass(slots=True)
class Trace:
    """Monotonic nanoseconds of one frame's way; 0 = not reached. Each field has one writer."""

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
        """Milliseconds a stage; `queue` is all waiting, `overhead` all that is neither prepare nor infer."""
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
