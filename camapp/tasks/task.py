"""Defines the Task base class and the registry of tasks."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.image import Image
from camapp.core.models import BadModel
from camapp.core.predictions import Prediction
from engine.model import ModelCard

if TYPE_CHECKING:
    from camapp.core.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskOptions:
    """The settings that apply to any task.

    Attributes:
        fit: how an image is fitted to the model's input: 'crop' (centre, keeps aspect), 'letterbox' or 'stretch'; None
            leaves it to the task.
        roi: (x, y, width, height) of the region of interest, as fractions of the image; None is the whole image.
        smoothing: time constant of the label's moving average, seconds; 0 disables it.
        threshold_high: score at which a label is accepted.
        threshold_low: score below which the label is dropped (hysteresis).
        reject: share of known things that may be taken for unknown ones; 0 gives everything a label.
        top: number of (label, score) pairs in a prediction.
        mean: what the settings state about the model's input, if anything; it is part of the card, too.
        std: likewise.
        colour: likewise.
        head: how the outputs encode objects; None is the card's, or recognised.
        score: score from which on objects are reported; None is the head's.
        iou: overlap above which the weaker of two boxes of a class is dropped; None is the head's.
        classes: labels of the objects to report; () for all.
        zone: areas to count in; see `camapp.core.zones`.
        line: lines whose crossings count, likewise.
        camera_height: height of the camera over the ground, metres; None is estimated from the lane's width.
        camera_pitch: angle of the camera below the horizontal, degrees; None is estimated from the lines.
        camera_roll: rotation of the camera to the right, degrees.
        camera_hfov: field of view along the longer side of the image, degrees.
        camera_distortion: barrel distortion of the lens, degrees; see `camapp.core.ground_camera.GroundCamera`.
        lane_width: expected width of the lane, metres; None is estimated from the camera's height.
        line_colour: colour of the lines: 'white', or a name in `camapp.tasks.line_colour`.
    """

    fit: str | None = None
    roi: tuple[float, float, float, float] | None = None
    smoothing: float = 0.3
    threshold_high: float = 0.5
    threshold_low: float = 0.35
    reject: float = 0.01
    top: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    colour: str | None = None
    head: str | None = None
    score: float | None = None
    iou: float | None = None
    classes: tuple[str, ...] = ()
    zone: tuple[str, ...] = ()
    line: tuple[str, ...] = ()
    camera_height: float | None = None
    camera_pitch: float | None = None
    camera_roll: float = 0.0
    camera_hfov: float = 66.0
    camera_distortion: float = 0.0
    lane_width: float | None = None
    line_colour: str = "white"

    @classmethod
    def of(cls, settings: Settings) -> TaskOptions:
        """Return the options of these settings; both use the same names."""
        return cls(**{item.name: getattr(settings, item.name) for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` wrote: the number of items in the batch, and the geometry that maps results back to the view."""

    count: int
    geometry: Any


class Task(ABC):
    """Prepares the input of a model and decodes its outputs.

    `prepare` runs in one thread, `decode` in another, each in frame order.

    Attributes:
        name: key in the registry, and `Prediction.task`.
        counts_places: whether it counts in zones and across lines.
        max_items: maximum number of batch items per frame; slots are sized for it.
        batches: whether one run of the model may hold items of several images.
        infers: whether it runs the model; a task that only shows images needs no workers.
        recalled: what `recall` was given.
    """

    name: ClassVar[str]
    counts_places: ClassVar[bool] = False
    max_items: int = 1
    batches: bool = True
    infers: ClassVar[bool] = True
    recalled: Mapping[str, float] = MappingProxyType({})

    def __init__(self, card: ModelCard, options: TaskOptions) -> None:
        self.card = card
        self.options = options

    @abstractmethod
    def prepare(self, frame: Frame, batch: Floats) -> Prepared:
        """Write the model's input into `batch` (max_items, C, H, W) in place. A count of 0 means nothing to infer."""

    @abstractmethod
    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Turn the raw outputs, each (count, ...), into a prediction; `now_ns` is the time for filters."""

    def prepare_stills(self, images: Sequence[Image], batch: Floats) -> list[Prepared | None]:
        """Write images that need no search into consecutive items of `batch`; return their `Prepared`, else None."""
        return [None] * len(images)

    def decode_stills(
        self, images: Sequence[Image], outputs: Sequence[Floats], prepared: Sequence[Prepared]
    ) -> list[Prediction]:
        """Return the predictions of unrelated images, prepared as `Frame.still`; the best label is always accepted.

        The model's outputs, (items, ...) each, hold the items of all images in order.
        """
        predictions, start = [], 0
        for image, item in zip(images, prepared, strict=True):
            self.reset()
            item_outputs = [output[start : start + item.count] for output in outputs]
            predictions.append(self.decode(Frame.still(image), item_outputs, item, 0))
            start += item.count
        return predictions

    def reset(self) -> None:
        """Clear the filters, for example after the source was lost."""

    def learned(self) -> dict[str, float]:
        """Return what the frames have shown of the camera, to start from the next time; {} if nothing is sure."""
        return {}

    def recall(self, learned: Mapping[str, float]) -> None:
        """Start from what an earlier run has learned, before the first frame; names it does not know are ignored."""
        self.recalled = dict(learned)

    def take_over(self, previous: Task) -> None:
        """Continue what the task before has counted, after a change of the model or its settings during a run."""


REGISTRY = {
    "classify": "camapp.tasks.classify:ClassifyTask",
    "detect": "camapp.tasks.detect:DetectTask",
    "digits": "camapp.tasks.digits:DigitsTask",
    "track": "camapp.tasks.track:TrackTask",
}


def task_for(settings: Settings, card: ModelCard, own: type[Task] | None = None, **changes: Any) -> Task:
    """Create the task of a model with the options of the settings, except `changes`; `own` replaces the card's class.

    Raises:
        BadModel: the task is unknown, or does not suit the model.
    """
    options = replace(TaskOptions.of(settings), **changes)
    try:
        task = own(card, options) if own else create_task(card.task, card, options)
    except ValueError as error:
        raise BadModel(str(error)) from error
    # No error: zones belong to the camera, and its model may be changed during a run.
    if (options.zone or options.line) and not task.counts_places:
        log.warning("--zone and --line count nothing: the model's task is '%s', which finds no objects", task.name)
    return task


def create_task(name: str, card: ModelCard, options: TaskOptions) -> Task:
    """Create the task of that name for a model; raises ValueError if there is no such task."""
    if name not in REGISTRY:
        raise ValueError(f"unknown task '{name}'; known are {', '.join(REGISTRY)}")
    module, _, cls = REGISTRY[name].partition(":")
    task: Task = getattr(import_module(module), cls)(card, options)
    return task
