"""Post-processing as the authors of each family publish it, written as plain loops, for comparison with the heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from camapp.core.image_ops import Fit
from tests.camapp.tasks.heads.comparison import Found

Floats = NDArray[np.float32]
Row = tuple[list[float], int, float]


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared) if shared else 0.0


def greedy(rows: Sequence[Row], threshold: float) -> list[Row]:
    """Keep each row, best first, unless one that was kept, of the same class, overlaps it."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: -row[2]):
        if all(row[1] != other[1] or iou(row[0], other[0]) <= threshold for other in kept):
            kept.append(row)
    return kept


def in_image(box: Sequence[float], fit: Fit) -> list[float]:
    """Undo a letterbox or stretch as the families do, and clip to the image."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = fit.source, fit.target
    gain_x, gain_y = (u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)
    x = [min(max((value - u0) / gain_x + x0, x0), x1) for value in box[::2]]
    y = [min(max((value - v0) / gain_y + y0, y0), y1) for value in box[1::2]]
    return [value for pair in zip(x, y, strict=True) for value in pair]


def found(rows: Sequence[Row], labels: Sequence[str], fit: Fit) -> list[Found]:
    """Return rows as objects, without those outside of the image."""
    placed = [(in_image(box, fit), number, score) for box, number, score in rows]
    inside = [(box, number, score) for box, number, score in placed if box[2] > box[0] and box[3] > box[1]]
    return [Found(box, labels[number], score) for box, number, score in inside]


def yolox(outputs: list[Floats], size: tuple[int, int], score: float, threshold: float) -> list[Row]:
    """Megvii's `demo_postprocess` and `multiclass_nms`."""
    (numbers,) = outputs
    width, height = size
    rows, cell = [], 0
    for stride in (8, 16, 32):
        for y in range(height // stride):
            for x in range(width // stride):
                cx, cy, log_w, log_h, objectness, *classes = numbers[0, cell].tolist()
                cell += 1
                best = int(np.argmax(classes))
                if objectness * classes[best] >= score:
                    cx, cy = (cx + x) * stride, (cy + y) * stride
                    w, h = math.exp(log_w) * stride, math.exp(log_h) * stride
                    rows.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], best, objectness * classes[best]))
    assert cell == numbers.shape[1]
    return greedy(rows, threshold)


def yolov8(outputs: list[Floats], score: float, threshold: float) -> list[Row]:
    """Ultralytics' `non_max_suppression` of outputs without objectness."""
    rows = []
    for cx, cy, w, h, *classes in outputs[0][0].T.tolist():
        best = int(np.argmax(classes))
        if classes[best] > score:
            rows.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], best, classes[best]))
    return greedy(rows, threshold)


def _with_objectness(numbers: Sequence[float], score: float) -> list[Row]:
    """YOLOv5's `non_max_suppression`, for one row: the best class, scaled by the objectness."""
    cx, cy, w, h, objectness, *classes = numbers
    best = int(np.argmax(classes))
    found = objectness * classes[best]
    return [([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], best, found)] if found > score else []


def yolov5(outputs: list[Floats], score: float, threshold: float) -> list[Row]:
    """Ultralytics' YOLOv5 `non_max_suppression` with one label a box."""
    rows = [found for numbers in outputs[0][0].tolist() for found in _with_objectness(numbers, score)]
    return greedy(rows, threshold)


def yolov10(outputs: list[Floats], score: float) -> list[Row]:
    """The net's own rows above the score."""
    rows = [(row[:4], int(row[5]), row[4]) for row in outputs[0][0].tolist() if row[4] > score]
    return sorted(rows, key=lambda row: -row[2])


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def yolov3(
    outputs: list[Floats], anchors: Sequence[float], size: tuple[int, int], score: float, threshold: float
) -> list[Row]:
    """Darknet's `get_yolo_box` and `do_nms_sort`: each class of a box has a score of its own."""
    rows: list[Row] = []
    by_size = sorted(outputs, key=lambda output: -output.shape[2])
    for level, output in enumerate(by_size):
        _, channels, h, w = output.shape
        stride, numbers = size[0] // w, output[0].reshape(3, channels // 3, h, w)
        for anchor, y, x in np.ndindex(3, h, w):
            tx, ty, tw, th, objectness, *classes = numbers[anchor, :, y, x].tolist()
            cx, cy = (_sigmoid(tx) + x) * stride, (_sigmoid(ty) + y) * stride
            wide = math.exp(tw) * anchors[6 * level + 2 * anchor]
            high = math.exp(th) * anchors[6 * level + 2 * anchor + 1]
            for number, logit in enumerate(classes):
                found = _sigmoid(objectness) * _sigmoid(logit)
                if found > score:
                    rows.append(([cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2], number, found))
    return greedy(rows, threshold)


def yolo_fastestv2(
    outputs: list[Floats], anchors: Sequence[float], size: tuple[int, int], score: float, threshold: float
) -> list[Row]:
    """Yolo-FastestV2's `handel_preds` and `non_max_suppression`."""
    rows, place = [], 0
    for level, stride in enumerate((16, 32)):
        for y, x in np.ndindex(size[1] // stride, size[0] // stride):
            numbers = outputs[0][place].tolist()
            place += 1
            for anchor in range(3):
                tx, ty, tw, th = numbers[4 * anchor : 4 * anchor + 4]
                cx, cy = (tx * 2 - 0.5 + x) * stride, (ty * 2 - 0.5 + y) * stride
                wide = (tw * 2) ** 2 * anchors[6 * level + 2 * anchor]
                high = (th * 2) ** 2 * anchors[6 * level + 2 * anchor + 1]
                rows += _with_objectness([cx, cy, wide, high, numbers[12 + anchor], *numbers[15:]], score)
    return greedy(rows, threshold)


def fastestdet(outputs: list[Floats], size: tuple[int, int], score: float, threshold: float) -> list[Row]:
    """FastestDet's `handle_preds`."""
    _, _, h, w = outputs[0].shape
    rows: list[Row] = []
    for y, x in np.ndindex(h, w):
        objectness, tx, ty, tw, th, *classes = outputs[0][0, :, y, x].tolist()
        best = int(np.argmax(classes))
        found = objectness**0.6 * classes[best] ** 0.4
        if found > score:
            cx, cy = (math.tanh(tx) + x) / w * size[0], (math.tanh(ty) + y) / h * size[1]
            wide, high = _sigmoid(tw) * size[0], _sigmoid(th) * size[1]
            rows.append(([cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2], best, found))
    return greedy(rows, threshold)


def distributions(
    levels: Sequence[tuple[Floats, Floats, int]], size: tuple[int, int], middle: float, score: float, threshold: float
) -> list[Row]:
    """The decoding of NanoDet and PicoDet, and their `multiclass_nms`, for (scores, sides, stride) of each level."""
    rows: list[Row] = []
    for scores, sides, stride in levels:
        columns = math.ceil(size[0] / stride)
        for cell, (classes, numbers) in enumerate(zip(scores.tolist(), sides.reshape(-1, 4, 8).tolist(), strict=True)):
            x, y = (cell % columns + middle) * stride, (cell // columns + middle) * stride
            distances = []
            for logits in numbers:
                powers = [math.exp(logit) for logit in logits]
                distances.append(sum(bin * power for bin, power in enumerate(powers)) / sum(powers) * stride)
            box = [x - distances[0], y - distances[1], x + distances[2], y + distances[3]]
            box = [min(max(value, 0), size[index % 2]) for index, value in enumerate(box)]
            rows += [(box, number, found) for number, found in enumerate(classes) if found > score]
    return greedy(rows, threshold)


def ssd(
    scores: Floats, boxes: Floats, size: tuple[int, int], score: float, threshold: float, priors: Floats | None
) -> list[Row]:
    """The decoding with variances 0.1 and 0.2, if there are priors, and suppression of each class but the first."""
    rows: list[Row] = []
    for index, (classes, box) in enumerate(zip(scores.tolist(), boxes.tolist(), strict=True)):
        if priors is not None:
            x, y, w, h = priors[index].tolist()
            cx, cy = x + box[0] * 0.1 * w, y + box[1] * 0.1 * h
            wide, high = w * math.exp(box[2] * 0.2), h * math.exp(box[3] * 0.2)
            box = [cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2]
        pixels = [value * size[axis % 2] for axis, value in enumerate(box)]
        rows += [(pixels, number, found) for number, found in enumerate(classes[1:]) if found > score]
    return greedy(rows, threshold)


def ultraface_priors(width: int, height: int) -> Floats:
    """UltraFace's `generate_priors`."""
    priors = []
    for stride, sides in zip((8, 16, 32, 64), ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256)), strict=True):
        for j in range(math.ceil(height / stride)):
            for i in range(math.ceil(width / stride)):
                centre = (i + 0.5) / (width / stride), (j + 0.5) / (height / stride)
                priors += [[*centre, side / width, side / height] for side in sides]
    return np.clip(np.array(priors), 0, 1)


def ssdlite_priors(side: int) -> Floats:
    """torchvision's `DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)` for a square input."""
    scales = [0.2 + 0.15 * level for level in range(6)] + [1.0]
    priors, cells = [], math.ceil(side / 16)
    for level in range(6):
        scale, mean = scales[level], math.sqrt(scales[level] * scales[level + 1])
        sizes = [(scale, scale), (mean, mean)]
        for ratio in (2, 3):
            root = math.sqrt(ratio)
            sizes += [(scale * root, scale / root), (scale / root, scale * root)]
        for y in range(cells):
            for x in range(cells):
                centre = (x + 0.5) / cells, (y + 0.5) / cells
                priors += [[*centre, min(1, width), min(1, height)] for width, height in sizes]
        cells = math.ceil(cells / 2)
    return np.array(priors)


Face = tuple[list[float], list[tuple[float, float]], float]


def yunet(outputs: dict[str, Floats], size: tuple[int, int], score: float, threshold: float) -> list[Face]:
    """OpenCV's `FaceDetectorYN`."""
    rows: list[Row] = []
    points: dict[tuple[float, ...], list[tuple[float, float]]] = {}
    for stride in (8, 16, 32):
        columns = size[0] // stride
        for cell in range(columns * (size[1] // stride)):
            x, y = cell % columns, cell // columns
            product = float(outputs[f"cls_{stride}"][0, cell, 0]) * float(outputs[f"obj_{stride}"][0, cell, 0])
            dx, dy, log_w, log_h = outputs[f"bbox_{stride}"][0, cell].tolist()
            marks = outputs[f"kps_{stride}"][0, cell].tolist()
            cx, cy, w, h = (x + dx) * stride, (y + dy) * stride, math.exp(log_w) * stride, math.exp(log_h) * stride
            box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            if math.sqrt(product) >= score:
                rows.append((box, 0, math.sqrt(product)))
                points[tuple(box)] = [((marks[2 * n] + x) * stride, (marks[2 * n + 1] + y) * stride) for n in range(5)]
    return [(box, points[tuple(box)], found) for box, _, found in greedy(rows, threshold)]


def blazeface(outputs: dict[str, Floats], side: int, score: float, threshold: float) -> list[Face]:
    """MediaPipe's decoding and weighted suppression."""
    numbers: list[tuple[float, list[float]]] = []
    for stride, anchors in ((8, 2), (16, 6)):
        cells = side // stride
        for index, (logit, row) in enumerate(
            zip(outputs[f"classificators_{stride}"][0, :, 0], outputs[f"regressors_{stride}"][0], strict=True)
        ):
            cell = index // anchors
            x, y = (cell % cells + 0.5) * stride, (cell // cells + 0.5) * stride
            cx, cy, w, h, *marks = row.tolist()
            places = [value + (y if at % 2 else x) for at, value in enumerate(marks)]
            box = [cx + x - w / 2, cy + y - h / 2, cx + x + w / 2, cy + y + h / 2]
            found = _sigmoid(max(-100, min(100, float(logit))))
            if found >= score:
                numbers.append((found, [*box, *places]))
    numbers.sort(key=lambda item: -item[0])
    faces: list[Face] = []
    while numbers:
        best = numbers[0][1][:4]
        group = [item for item in numbers if item is numbers[0] or iou(best, item[1][:4]) > threshold]
        numbers = [item for item in numbers if item not in group]
        total = sum(found for found, _ in group)
        mean = [sum(found * row[at] for found, row in group) / total for at in range(16)]
        faces.append((mean[:4], list(zip(mean[4::2], mean[5::2], strict=True)), total / len(group)))
    return faces


def process_mask(prototypes: Floats, weights: Floats, box: Sequence[float], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Ultralytics' `process_mask` for one object: the sum of the prototypes, enlarged, where positive, cropped."""
    total = np.tensordot(weights, prototypes, 1).astype(np.float32)
    mask = np.asarray(cv2.resize(total, size[::-1], interpolation=cv2.INTER_LINEAR) > 0)
    y, x = np.mgrid[: size[0], : size[1]]
    return mask & (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


def _covariance(w: float, h: float, angle: float) -> NDArray[np.float64]:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(turn @ np.diag([w * w / 12, h * h / 12]) @ turn.T)


def prob_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """The paper's formula, by matrices: rows are x, y, w, h, angle."""
    one, two = _covariance(*first[2:5]), _covariance(*second[2:5])
    mean, gap = (one + two) / 2, np.array(first[:2]) - second[:2]
    distance = gap @ np.linalg.inv(mean) @ gap / 8
    distance += math.log(np.linalg.det(mean) / math.sqrt(np.linalg.det(one) * np.linalg.det(two))) / 2
    return 1 - math.sqrt(max(0.0, 1 - math.exp(-distance)))


def yolov8_obb(outputs: list[Floats], score: float, threshold: float, labels: Sequence[str], fit: Fit) -> list[Found]:
    """Ultralytics' rotated suppression, and its form of boxes: turned by less than 90 degrees."""
    rows = []
    for cx, cy, w, h, *classes, angle in outputs[0][0].T.tolist():
        best = int(np.argmax(classes))
        if classes[best] > score:
            rows.append(([cx, cy, w, h, angle], best, classes[best]))
    rows.sort(key=lambda row: -row[2])
    kept = [
        row
        for place, row in enumerate(rows)
        if all(row[1] != other[1] or prob_iou(row[0], other[0]) <= threshold for other in rows[:place])
    ]
    found = []
    for (cx, cy, w, h, angle), number, probability in kept:
        turned = math.degrees(angle) % 90
        w, h = (h, w) if angle % math.pi >= math.pi / 2 else (w, h)
        (x0, y0, x1, y1), (u0, v0, u1, v1) = fit.source, fit.target
        gains = (u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        placed = [(value - (u0, v0)[at % 2]) / gains[at % 2] + (x0, y0)[at % 2] for at, value in enumerate(box)]
        found.append(Found(placed, labels[number], probability, angle=turned))
    return found


def segment(maps: Floats, labels: Sequence[str], size: tuple[int, int], fit: Fit) -> list[Found]:
    """The largest of the maps, or the one map above one half; a box around each class but the background."""
    if len(maps) == 1:
        likely, best = maps, np.where(maps[0] > 0.5, 0, -1)
    else:
        powers = np.exp(maps - maps.max(axis=0))
        likely, best = (powers / powers.sum(axis=0))[1:], maps.argmax(axis=0) - 1
    found = []
    for number, label in enumerate(labels):
        y, x = np.nonzero(best == number)
        if len(y) >= 0.001 * best.size and (score := float(likely[number][y, x].mean())) >= 0.5:
            scale = size[0] / best.shape[1], size[1] / best.shape[0]
            box = [x.min() * scale[0], y.min() * scale[1], (x.max() + 1) * scale[0], (y.max() + 1) * scale[1]]
            found.append(Found(in_image(box, fit), label, score))
    return found
