"""The Task protocol and the registry of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image import Image
from camapp.core.predictions import Prediction
from engine.model import ModelCard, ModelError

if TYPE_CHECKING:
    from camapp.core.settings import Settings


@dataclass(frozen=True)
class TaskOptions:
    """What the user may set for any task.

    Attributes:
        fit: how an image meets the model's input: 'crop' (centre, keeps aspect), 'letterbox' or 'stretch'.
        roi: (x, y, width, height) of the part to look at, as fractions of the image; None is all.
        smoothing: seconds of the label's moving average; 0 takes each frame as it is.
        threshold_high: score at which a label is taken.
        threshold_low: score under which it is let go.
        top: how many (label, score) pairs a prediction keeps.
        camera_height: of the camera over the ground, metres.
        camera_pitch: degrees by which it looks down.
        camera_roll: degrees by which it leans to the right.
        camera_hfov: degrees that it sees along the longer side of its image.
        camera_distortion: barrel distortion of its lens, degrees; see `camapp.core.ground_camera.GroundCamera`.
        lane_width: expected, metres.
    """

    fit: str = "crop"
    roi: tuple[float, float, float, float] | None = None
    smoothing: float = 0.3
    threshold_high: float = 0.5
    threshold_low: float = 0.35
    top: int = 3
    camera_height: float = 0.3
    camera_pitch: float = 18.0
    camera_roll: float = 0.0
    camera_hfov: float = 66.0
    camera_distortion: float = 0.0
    lane_width: float = 1.22

    @classmethod
    def of(cls, settings: Settings) -> TaskOptions:
        """Those among all settings, by the same names."""
        return cls(**{item.name: getattr(settings, item.name) for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` wrote: the number of items in the batch, and what the task needs to get back to the view."""

    count: int
    geometry: Any


class Task(ABC):
    """Both ends of a model. `prepare` runs in one thread, `decode` in another, each in frame order.

    Attributes:
        name: as in the registry and in `Prediction.task`.
        max_items: the most items that one frame can become (slots are sized for it).
    """

    name: ClassVar[str]
    max_items: int = 1

    def __init__(self, card: ModelCard, options: TaskOptions) -> None:
        self.card = card
        self.options = options

    @abstractmethod
    def prepare(self, frame: Frame, batch: Floats) -> Prepared:
        """Write the model's input into `batch` (max_items, C, H, W) in place. Count 0: nothing to infer."""

    @abstractmethod
    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Outputs (each (count, ...), raw network numbers) into a prediction; filters take `now_ns` as the time."""

    def prepare_stills(self, images: Sequence[Image], batch: Floats) -> list[Prepared | None]:
        """Write those of these images that can be done at once into `batch`, an item each, one after another.

        Returns:
            For each image what `prepare` would; None where that is still to be asked.
        """
        return [None] * len(images)

    def decode_stills(
        self, images: Sequence[Image], outputs: Sequence[Floats], prepared: Sequence[Prepared]
    ) -> list[Prediction]:
        """Predictions of images that have nothing to do with one another, the best label always taken.

        Args:
            images: each prepared as `Frame.still` of it.
            outputs: each (items, ...), the items of all images one after another.
            prepared: of each image.
        """
        found, at = [], 0
        for image, mine in zip(images, prepared, strict=True):
            self.reset()
            mine_out = [output[at : at + mine.count] for output in outputs]
            found.append(self.decode(Frame.still(image), mine_out, mine, 0))
            at += mine.count
        return found

    @abstractmethod
    def reset(self) -> None:
        """Forget filters, as after a source was lost."""


REGISTRY = {
    "classify": "camapp.tasks.classify:ClassifyTask",
    "digits": "camapp.tasks.digits:DigitsTask",
    "track": "camapp.tasks.track:TrackTask",
}


def task_for(settings: Settings, card: ModelCard, **changes: Any) -> Task:
    """The task of a model as the settings (and `changes` to their options) have it.

    Raises:
        ModelError: the task is unknown, or does not suit the model.
    """
    try:
        return create_task(card.task, card, replace(TaskOptions.of(settings), **changes))
    except ValueError as error:
        raise ModelError(str(error)) from error


def create_task(name: str, card: ModelCard, options: TaskOptions) -> Task:
    """The task of that name for a model.

    Raises:
        ValueError: no such task.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown task '{name}'; known are {', '.join(REGISTRY)}")
    module, _, cls = REGISTRY[name].partition(":")
    task: Task = getattr(import_module(module), cls)(card, options)
    return task
