"""A small twin of each family of detectors: the outputs, shapes and last operators of its published export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from camapp.tasks.heads.blazeface import BlazefaceHead
from camapp.tasks.heads.head import head_class
from camapp.tasks.heads.ssd import SsdHead
from camapp.tasks.heads.ssdlite import SsdliteHead
from engine.model_card import ModelCard
from tests.camapp.tasks.heads.comparison import prepared
from tests.camapp.tasks.heads.twins import Twin

LABELS = ("ant", "bee", "cat")
CLASSES = len(LABELS)
ANCHORS = (6, 9, 14, 12, 20, 30, 30, 25, 50, 60, 80, 70)
STRIDES = (8, 16, 32)
Build = Callable[[Path], Path]


def twin_of(head: str, width: int, height: int, strides: Sequence[int] = STRIDES) -> Twin:
    return Twin(prepared(head_class(head).input, width, height), strides)


def side(size: int, stride: int) -> int:
    return -(-size // stride)


def count(width: int, height: int, strides: Sequence[int] = STRIDES) -> int:
    return sum(side(width, stride) * side(height, stride) for stride in strides)


def scores(twin: Twin, stride: int, classes: int, mean: float = -2, activation: str = "Sigmoid") -> str:
    made = twin.conv(stride, [mean] * classes, [1.8] * classes)
    return made if not activation else twin.node(activation, made, **({"axis": 1} if activation == "Softmax" else {}))


def yolox(path: Path) -> Path:
    twin, levels = twin_of("yolox", 160, 128), []
    for stride in STRIDES:
        box = twin.conv(stride, [0.5, 0.5, 1.2, 1.0], [0.5, 0.5, 0.4, 0.4])
        parts = [box, scores(twin, stride, 1, 0), scores(twin, stride, 80, -4)]
        levels.append(twin.reshape(twin.concat(*parts, axis=1), 1, 85, -1))
    twin.node("Transpose", twin.concat(*levels, axis=2), perm=(0, 2, 1), outputs=["output"])
    return twin.save(path, {"output": (1, 420, 85)})


def _pixels(twin: Twin, width: int, height: int, anchors: int = 1) -> str:
    """Add boxes x, y, w, h in pixels: (1, 4, cells)."""
    boxes, cells, strides = [], [], []
    for stride in STRIDES:
        made = twin.conv(stride, [0, 0, 3, 2.5] * anchors, [0.3, 0.3, 0.5, 0.4] * anchors)
        h, w = side(height, stride), side(width, stride)
        boxes.append(twin.reshape(made, 1, anchors, 4, -1))
        y, x = np.mgrid[:h, :w].reshape(2, -1) + 0.5
        cell = np.stack([x, y, 0 * x, 0 * x])[None, None]
        cells.append(np.repeat(cell, anchors, axis=1))
        strides.append(np.full((1, anchors, 1, h * w), stride))
    parts = []
    for box, cell, stride in zip(boxes, cells, strides, strict=True):
        placed = twin.node("Add", box, twin.constant(cell.astype(np.float32)))
        scaled = twin.node("Mul", placed, twin.constant(stride.astype(np.float32)))
        parts.append(twin.reshape(twin.node("Transpose", scaled, perm=(0, 2, 1, 3)), 1, 4, -1))
    return twin.concat(*parts, axis=2)


def _class_rows(twin: Twin, classes: int, mean: float = -2, anchors: int = 1) -> str:
    """Add sigmoided rows (1, classes, cells)."""
    rows = []
    for stride in STRIDES:
        made = twin.conv(stride, [mean] * classes * anchors, [1.5] * classes * anchors)
        split = twin.node("Transpose", twin.reshape(made, 1, anchors, classes, -1), perm=(0, 2, 1, 3))
        rows.append(twin.reshape(split, 1, classes, -1))
    return twin.node("Sigmoid", twin.concat(*rows, axis=2))


def yolov5(path: Path) -> Path:
    twin = twin_of("yolov5", 160, 128)
    parts = [_pixels(twin, 160, 128, 3), _class_rows(twin, 1, -3, 3), _class_rows(twin, CLASSES, 0, 3)]
    twin.node("Transpose", twin.concat(*parts, axis=1), perm=(0, 2, 1), outputs=["output"])
    return twin.save(path, {"output": (1, 1260, 5 + CLASSES)})


def yolov6(path: Path) -> Path:
    twin = twin_of("yolov5", 160, 128)
    sure = twin.constant(np.ones((1, 1, 420), np.float32))
    parts = [_pixels(twin, 160, 128), sure, _class_rows(twin, CLASSES)]
    twin.node("Transpose", twin.concat(*parts, axis=1), perm=(0, 2, 1), outputs=["outputs"])
    return twin.save(path, {"outputs": (1, 420, 5 + CLASSES)})


def metadata(task: str, **more: str) -> dict[str, str]:
    return {"names": str(dict(enumerate(LABELS))), "task": task, "imgsz": "[128, 160]", "stride": "32", **more}


def yolov8(path: Path) -> Path:
    twin = twin_of("yolov8", 160, 128)
    twin.node("Concat", _pixels(twin, 160, 128), _class_rows(twin, CLASSES), axis=1, outputs=["output0"])
    return twin.save(path, {"output0": (1, 4 + CLASSES, 420)}, metadata=metadata("detect"))


def yolov8_seg(path: Path) -> Path:
    twin = twin_of("yolov8", 160, 128, (4, *STRIDES))
    weights = [twin.reshape(twin.conv(stride, [0] * 8, [1.0] * 8), 1, 8, -1) for stride in STRIDES]
    parts = [_pixels(twin, 160, 128), _class_rows(twin, CLASSES), twin.concat(*weights, axis=2)]
    twin.node("Concat", *parts, axis=1, outputs=["output0"])
    twin.node("Identity", twin.conv(4, [0.2] * 8, [1.0] * 8), outputs=["output1"])
    return twin.save(path, {"output0": (1, 12 + CLASSES, 420), "output1": (1, 8, 32, 40)}, metadata=metadata("segment"))


def yolov8_pose(path: Path) -> Path:
    twin = twin_of("yolov8", 160, 128)
    points = [twin.reshape(twin.conv(stride, [60, 50, 0.5] * 4, [30, 20, 0.2] * 4), 1, 12, -1) for stride in STRIDES]
    parts = [_pixels(twin, 160, 128), _class_rows(twin, CLASSES), twin.concat(*points, axis=2)]
    twin.node("Concat", *parts, axis=1, outputs=["output0"])
    return twin.save(path, {"output0": (1, 16 + CLASSES, 420)}, metadata=metadata("pose", kpt_shape="[4, 3]"))


def yolov8_obb(path: Path) -> Path:
    twin = twin_of("yolov8", 160, 128)
    angles = [twin.reshape(twin.conv(stride, [0.8], [0.5]), 1, 1, -1) for stride in STRIDES]
    parts = [_pixels(twin, 160, 128), _class_rows(twin, CLASSES), twin.concat(*angles, axis=2)]
    twin.node("Concat", *parts, axis=1, outputs=["output0"])
    return twin.save(path, {"output0": (1, 5 + CLASSES, 420)}, metadata=metadata("obb"))


def yolov10(path: Path) -> Path:
    """Rows of level 16 in place of the strongest ones, which would need TopK."""
    twin = twin_of("yolov10", 160, 128)
    low = twin.conv(16, [60, 50], [25, 20])
    high = twin.node("Add", low, twin.node("Relu", twin.conv(16, [40, 30], [5, 5])))
    bounds = twin.constant(np.float32(0)), twin.constant(np.float32(1))
    steps = [twin.node("Clip", twin.conv(16, [0], [1e6]), *bounds) for _ in range(2)]
    number = twin.node("Add", *steps)
    rows = twin.rows(twin.concat(low, high, scores(twin, 16, 1, -1), number, axis=1), 6)
    twin.node("Identity", rows, outputs=["output0"])
    return twin.save(path, {"output0": (1, 80, 6)}, metadata=metadata("detect"))


def yolov3(path: Path) -> Path:
    twin, outputs = twin_of("yolov3", 160, 128, (16, 32)), {}
    for stride in (32, 16):
        means, stds = [0, 0, 0, 0, -3, *[0] * CLASSES] * 3, [1, 1, 0.3, 0.3, 2, *[2] * CLASSES] * 3
        name = twin.node("Identity", twin.conv(stride, means, stds), outputs=[f"layer{stride}"])
        outputs[name] = (1, 3 * (5 + CLASSES), 128 // stride, 160 // stride)
    return twin.save(path, outputs, anchors=ANCHORS)


def yolo_fastestv2(path: Path) -> Path:
    twin, levels = twin_of("yolo-fastestv2", 160, 128, (16, 32)), []
    for stride in (16, 32):
        box = twin.node("Sigmoid", twin.conv(stride, [0] * 12, [0.4] * 12))
        parts = [box, scores(twin, stride, 3, 0), scores(twin, stride, 5, 0, "Softmax")]
        levels.append(twin.reshape(twin.rows(twin.concat(*parts, axis=1), 20), -1, 20))
    twin.node("Concat", *levels, axis=0, outputs=["output"])
    return twin.save(path, {"output": (100, 20)}, anchors=ANCHORS)


def fastestdet(path: Path) -> Path:
    twin = twin_of("fastestdet", 160, 128, (16,))
    box = twin.conv(16, [0, 0, -1, -1], [1, 1, 0.6, 0.6])
    twin.node(
        "Concat", scores(twin, 16, 1, 1), box, scores(twin, 16, CLASSES, 0, "Softmax"), axis=1, outputs=["output"]
    )
    return twin.save(path, {"output": (1, 5 + CLASSES, 8, 10)})


def nanodet(path: Path) -> Path:
    twin, outputs = twin_of("nanodet", 160, 128), {}
    for stride in STRIDES:
        n = side(160, stride) * side(128, stride)
        for name, made, width in (("cls", scores(twin, stride, CLASSES), CLASSES), ("dis", _sides(twin, stride), 32)):
            outputs[twin.node("Identity", twin.rows(made, width), outputs=[f"{name}_pred_stride_{stride}"])] = (
                1,
                n,
                width,
            )
    return twin.save(path, dict(sorted(outputs.items())))


def _sides(twin: Twin, stride: int) -> str:
    return twin.conv(stride, [0] * 32, [1.0] * 32)


def nanodet_plus(path: Path) -> Path:
    twin, levels = twin_of("nanodet", 192, 128, (*STRIDES, 64)), []
    for stride in (*STRIDES, 64):
        levels.append(twin.reshape(twin.concat(scores(twin, stride, CLASSES), _sides(twin, stride), axis=1), 1, 35, -1))
    twin.node("Transpose", twin.concat(*levels, axis=2), perm=(0, 2, 1), outputs=["output"])
    return twin.save(path, {"output": (1, 510, 35)})


def picodet(path: Path) -> Path:
    twin, outputs = twin_of("picodet", 128, 128, (*STRIDES, 64)), {}
    for stride in (*STRIDES, 64):
        made = twin.rows(scores(twin, stride, CLASSES), CLASSES)
        outputs[twin.node("Identity", made, outputs=[f"transpose_{stride}"])] = (1, (128 // stride) ** 2, CLASSES)
    for stride in (*STRIDES, 64):
        made = twin.rows(_sides(twin, stride), 32)
        outputs[twin.node("Identity", made, outputs=[f"sides_{stride}"])] = (1, (128 // stride) ** 2, 32)
    return twin.save(path, outputs)


def _offsets(twin: Twin, levels: Sequence[tuple[int, int]], classes: int) -> tuple[str, str]:
    """Add softmaxed rows and offsets for (stride, priors a cell)."""
    rows, boxes = [], []
    for stride, priors in levels:
        rows.append(
            twin.reshape(
                twin.rows(
                    twin.conv(stride, [1.0, *[0.0] * classes] * priors, [1.5] * (1 + classes) * priors),
                    (1 + classes) * priors,
                ),
                1,
                -1,
                1 + classes,
            )
        )
        boxes.append(
            twin.reshape(twin.rows(twin.conv(stride, [0] * 4 * priors, [2.0] * 4 * priors), 4 * priors), 1, -1, 4)
        )
    return twin.concat(*rows, axis=1), twin.concat(*boxes, axis=1)


ULTRAFACE = ((8, 3), (16, 2), (32, 2), (64, 3))


def ultraface_raw(path: Path) -> Path:
    twin = twin_of("ssd", 128, 128, (8, 16, 32, 64))
    rows, boxes = _offsets(twin, ULTRAFACE, 1)
    twin.node("Softmax", rows, axis=2, outputs=["scores"])
    twin.node("Identity", boxes, outputs=["boxes"])
    return twin.save(path, {"scores": (1, 940, 2), "boxes": (1, 940, 4)})


def ultraface(path: Path) -> Path:
    """Boxes decoded in the graph."""
    twin = twin_of("ssd", 128, 128, (8, 16, 32, 64))
    rows, boxes = _offsets(twin, ULTRAFACE, 1)
    place = SsdHead.priors(ModelCard("any", input_shape=(3, 128, 128)))[None]
    twin.node("Softmax", rows, axis=2, outputs=["scores"])
    scaled = twin.node("Mul", boxes, twin.constant(np.float32(0.1) * np.concatenate([place[..., 2:]] * 2, axis=2)))
    middles = np.concatenate([place[..., :2]] * 2, axis=2)
    centres = twin.node("Add", scaled, twin.constant(middles))
    halves = twin.constant(np.concatenate([place[..., 2:] / 2] * 2, axis=2))
    edges = twin.node("Sub", centres, halves), twin.node("Add", centres, halves)
    parts = []
    for edge, start in zip(edges, (0, 2), strict=True):
        bounds = [twin.constant(np.array([number])) for number in (start, start + 2, 2)]
        parts.append(twin.node("Slice", edge, *bounds))
    twin.node("Concat", *parts, axis=2, outputs=["boxes"])
    return twin.save(path, {"scores": (1, 940, 2), "boxes": (1, 940, 4)})


def ssdlite(path: Path) -> Path:
    twin = twin_of("ssdlite", 128, 128, (16, 32, 64, 128))
    # A net of 128 pixels has levels of 8, 4, 2, 1, 1, 1 cells a side.
    rows, boxes = _offsets(twin, ((16, 6), (32, 6), (64, 6), (128, 6), (128, 6), (128, 6)), 90)
    assert len(SsdliteHead.priors(ModelCard("any", input_shape=(3, 128, 128)))) == 522
    twin.node("Identity", boxes, outputs=["bbox_regression"])
    twin.node("Identity", rows, outputs=["cls_logits"])
    return twin.save(path, {"bbox_regression": (1, 522, 4), "cls_logits": (1, 522, 91)})


def yunet(path: Path) -> Path:
    twin, outputs = twin_of("yunet", 160, 128), {}
    for name, means, stds in (
        ("cls", [0], [2]), ("obj", [0], [2]), ("bbox", [0.5, 0.5, 0.8, 0.9], [0.4] * 4),
        ("kps", [0.5] * 10, [0.8] * 10),
    ):  # fmt: skip
        for stride in STRIDES:
            made = twin.conv(stride, means, stds)
            made = twin.node("Sigmoid", made) if len(means) == 1 else made
            name_s = twin.node("Identity", twin.rows(made, len(means)), outputs=[f"{name}_{stride}"])
            outputs[name_s] = (1, side(160, stride) * side(128, stride), len(means))
    return twin.save(path, outputs)


def blazeface(path: Path) -> Path:
    twin, outputs = Twin(prepared(BlazefaceHead.input, 128, 128), (8, 16)), {}
    for width, means, stds in ((1, [0], [2]), (16, [0, 0, 30, 30, *[0] * 12], [3, 3, 5, 5, *[10] * 12])):
        for stride, anchors in ((8, 2), (16, 6)):
            made = twin.rows(twin.conv(stride, means * anchors, stds * anchors), width * anchors)
            name = f"{'classificators' if width == 1 else 'regressors'}_{stride}"
            twin.node("Reshape", made, twin.constant(np.array([1, -1, width])), outputs=[name])
            outputs[name] = (1, anchors * (128 // stride) ** 2, width)
    return twin.save(path, outputs)


def segment(path: Path) -> Path:
    """Logits of a background and three classes."""
    twin = Twin(prepared(head_class("segment").input, 160, 128), (4,))
    twin.node("Identity", twin.conv(4, [0.5, 0, 0, 0], [1, 2, 2, 2]), outputs=["out"])
    return twin.save(path, {"out": (1, 4, 32, 40)})


def segment_one(path: Path) -> Path:
    """The probability of one class."""
    twin = Twin(prepared(head_class("segment").input, 160, 128), (4,))
    twin.node("Sigmoid", twin.conv(4, [0], [2]), outputs=["mask"])
    return twin.save(path, {"mask": (1, 1, 32, 40)})
