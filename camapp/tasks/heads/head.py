"""Defines the Head base class, the registry of heads, and their recognition by the outputs of a net."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import ClassVar

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.model_table import labels_named
from camapp.core.predictions import Point
from camapp.tasks.nms import Indices, suppress
from engine.model import ModelCard
from engine.model_card import Output

Outlines = tuple[tuple[Point, ...], ...]


@dataclass(frozen=True, slots=True)
class InputFormat:
    """Describes the images that the nets of a family were trained with.

    Attributes:
        colour: order of the channels.
        mean: subtracted from each channel, on the [0, 1] scale; one value is for all channels.
        std: divides each channel after that; 1/255 leaves pixels of 0 to 255.
        fit: 'letterbox' or 'stretch'.
        fill: brightness of a letterbox's bars, 0 to 255; None is the mean.
        corner: whether the image is in the upper left corner of a letterbox.
    """

    colour: str = "RGB"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fit: str = "letterbox"
    fill: float | None = None
    corner: bool = False


@dataclass(frozen=True, slots=True)
class Candidates:
    """Holds n objects that may be in the image, in pixels of the model's input.

    Attributes:
        boxes: (n, 4): x0, y0, x1, y1.
        scores: (n,), 0 to 1.
        classes: (n,), indices of labels.
        points: (n, points, 3): x, y, score; None if the head has none.
        angles: (n,), clockwise rotation of each box around its centre, degrees; None if the head has none.
        outlines: of each object's mask; () if there are none.
        rows: (n,) places of the objects in the outputs, for `Head.finish`; None if it needs none.
    """

    boxes: Floats
    scores: Floats
    classes: Indices
    points: Floats | None = None
    angles: Floats | None = None
    outlines: tuple[Outlines, ...] = ()
    rows: Indices | None = None

    def take(self, chosen: Indices) -> Candidates:
        """Return the chosen candidates, in that order."""
        arrays = {
            item.name: value[chosen]
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), np.ndarray)
        }
        outlines = tuple(self.outlines[index] for index in chosen.tolist()) if self.outlines else ()
        return replace(self, outlines=outlines, **arrays)


class Head(ABC):
    """Turns the outputs of a family of nets into candidates.

    Attributes:
        name: key in the registry, and the value of `--head`.
        layout: the form of the outputs, one line for messages.
        input: images that the family expects, unless the model's card or the settings state others.
        score: score from which on the family's authors report objects.
        iou: overlap above which they drop the weaker of two boxes.
        labels: names of the classes, if all nets of the family have the same.
        background: whether the first class of the outputs is the background, which `classes` does not count.
    """

    name: ClassVar[str]
    layout: ClassVar[str]
    input: ClassVar[InputFormat] = InputFormat()
    score: ClassVar[float] = 0.25
    iou: ClassVar[float] = 0.45
    labels: ClassVar[tuple[str, ...]] = ()
    background: ClassVar[bool] = False

    def __init__(self, card: ModelCard) -> None:
        """Prepare for a net; raises ValueError if the outputs have another form."""
        self.card = card
        self.classes = self.classes_of(card)
        if not self.classes:
            raise ValueError(f"head '{self.name}' needs outputs {self.layout}; the model has {described(card.outputs)}")
        self.setup()

    def setup(self) -> None:
        """Compute what does not change from frame to frame, such as a grid."""

    def class_names(self) -> tuple[str, ...]:
        """Return a name for each class: the card's, the family's, COCO's for 80, else numbers.

        Raises:
            ValueError: the card has another number of labels.
        """
        names = self.card.labels or (self.labels if len(self.labels) == self.classes else ())
        if self.background and len(names) == self.classes + 1:
            names = names[1:]
        if not names:
            coco = labels_named("coco")
            names = coco if len(coco) == self.classes else tuple(map(str, range(self.classes)))
        if len(names) != self.classes:
            raise ValueError(
                f"the model tells {self.classes} classes apart (head '{self.name}'), but {len(names)} labels are "
                "given; give --labels one name for each"
            )
        return names

    @classmethod
    @abstractmethod
    def classes_of(cls, card: ModelCard) -> int:
        """Return how many classes the net has if its outputs have the form of this head, else 0."""

    @abstractmethod
    def decode(self, outputs: Sequence[Floats], min_score: float) -> Candidates:
        """Return the candidates of one image with at least `min_score`; `outputs` have the shapes of the card."""

    def suppress(self, found: Candidates, iou: float) -> Candidates:
        """Drop the weaker ones of overlapping candidates of a class; return at most `nms.MAX_OBJECTS`, best first."""
        return found.take(suppress(found.boxes, found.scores, found.classes, iou))

    def finish(self, found: Candidates, outputs: Sequence[Floats]) -> Candidates:
        """Add what would take too long for every candidate, such as masks, to the few that are left."""
        return found


# In the order in which messages list them.
REGISTRY = {
    "yolox": "camapp.tasks.heads.yolox:YoloxHead",
    "yolov5": "camapp.tasks.heads.yolov5:Yolov5Head",
    "yolov8": "camapp.tasks.heads.yolov8:Yolov8Head",
    "yolov8-seg": "camapp.tasks.heads.yolov8_seg:Yolov8SegHead",
    "yolov8-pose": "camapp.tasks.heads.yolov8_pose:Yolov8PoseHead",
    "yolov8-obb": "camapp.tasks.heads.yolov8_obb:Yolov8ObbHead",
    "yolov10": "camapp.tasks.heads.yolov10:Yolov10Head",
    "yolov3": "camapp.tasks.heads.yolov3:Yolov3Head",
    "yolo-fastestv2": "camapp.tasks.heads.yolo_fastestv2:YoloFastestV2Head",
    "fastestdet": "camapp.tasks.heads.fastestdet:FastestDetHead",
    "nanodet": "camapp.tasks.heads.nanodet:NanodetHead",
    "picodet": "camapp.tasks.heads.picodet:PicodetHead",
    "ssd": "camapp.tasks.heads.ssd:SsdHead",
    "ssdlite": "camapp.tasks.heads.ssdlite:SsdliteHead",
    "yunet": "camapp.tasks.heads.yunet:YunetHead",
    "blazeface": "camapp.tasks.heads.blazeface:BlazefaceHead",
    "segment": "camapp.tasks.heads.segment:SegmentHead",
}
# Other names of families, and the head whose form their outputs have.
ALIASES = (
    {"yolov6": "yolov5", "yolov7": "yolov5", "yolo-fastest": "yolov3", "yolov3-tiny": "yolov3", "ultraface": "ssd"}
    | dict.fromkeys(("yolov5u", "yolov9", "yolo11", "yolo12"), "yolov8")
    | {f"yolo{version}-{kind}": f"yolov8-{kind}" for version in (11, 12) for kind in ("seg", "pose", "obb")}
)
# Strides of the levels that detectors have, most usual first.
LEVELS = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (4, 8, 16, 32))


def head_class(name: str) -> type[Head]:
    """Return the head of that name; raises ValueError if there is none."""
    name = ALIASES.get(name, name)
    if name not in REGISTRY:
        raise ValueError(f"unknown head '{name}'; known are {', '.join(REGISTRY)}")
    module, _, cls = REGISTRY[name].partition(":")
    found: type[Head] = getattr(import_module(module), cls)
    return found


def head_for(card: ModelCard, name: str = "") -> Head:
    """Create the head of that name, else that of the card, else the only one that the outputs fit.

    Raises:
        ValueError: the outputs do not fit, or fit no head or several.
    """
    if name or card.head:
        return head_class(name or card.head)(card)
    found = {cls: cls.classes_of(card) for cls in map(head_class, REGISTRY)}
    fitting = [cls for cls, classes in found.items() if classes]
    if len(fitting) > 1 and card.labels:
        fitting = [cls for cls in fitting if found[cls] == len(card.labels)] or fitting
    if len(fitting) == 1:
        return fitting[0](card)
    shapes = described(card.outputs)
    if fitting:
        names = " or ".join(cls.name for cls in fitting)
        raise ValueError(f"the outputs {shapes} may be those of several kinds of detectors: give --head {names}")
    raise ValueError(
        f"the outputs {shapes} of the model are of no known detector; --head may be one of {', '.join(REGISTRY)}, and "
        "--task names another task"
    )


def described(outputs: Sequence[Output]) -> str:
    """Return the names and shapes of outputs, for messages."""
    shown = [f"{output.name} [{', '.join(map(str, output.shape))}]" for output in outputs[:9]]
    return ", ".join(shown) + (f" and {len(outputs) - 9} more" if len(outputs) > 9 else "") or "(none)"


def only_shape(card: ModelCard, rank: int) -> tuple[int, ...]:
    """Return the shape of the net's only output if it has that many axes, else zeros."""
    if len(card.outputs) != 1 or len(card.outputs[0].shape) != rank:
        return (0,) * rank
    return card.outputs[0].shape


def grid(card: ModelCard, strides: Sequence[int], anchors: int = 1) -> Floats:
    """Return x, y (cells) and stride of each cell of all levels, (n, 3) float32, row by row, level after level.

    A cell is repeated for each of its anchors, and the levels round up inputs that are no multiple of a stride.
    """
    _, height, width = card.input_shape
    levels = []
    for stride in strides:
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)].reshape(2, -1)
        levels.append(np.repeat(np.stack([x, y, np.full_like(x, stride)], axis=1), anchors, axis=0))
    return np.concatenate(levels).astype(np.float32)


def cells(card: ModelCard, strides: Sequence[int]) -> int:
    """Return the number of cells of all levels."""
    _, height, width = card.input_shape
    return sum(-(-height // stride) * -(-width // stride) for stride in strides)


def levels_of(card: ModelCard, count: int, anchors: int = 1) -> tuple[int, ...]:
    """Return the strides of the levels that have `count` anchors in all; () if none of LEVELS has."""
    return next((strides for strides in LEVELS if anchors * cells(card, strides) == count), ())


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-values))."""
    return np.asarray(1 / (1 + np.exp(-values)))


def corners(centres: Floats, sizes: Floats) -> Floats:
    """Return boxes (n, 4) x0, y0, x1, y1 of centres (n, 2) and sizes (n, 2)."""
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def is_raw(output: Output, *activations: str) -> bool:
    """Return whether an output's numbers come straight from layers or these activations, so are not decoded yet."""
    layers = {"Conv", "Gemm"} | ({"MatMul", "Add"} if "MatMul" in output.operators else set())
    return {*output.operators} <= {*layers, *activations}
