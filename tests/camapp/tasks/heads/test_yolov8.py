import numpy as np
import pytest

from camapp.tasks.heads.yolov8 import Yolov8Head
from tests.camapp.tasks.heads import published
from tests.camapp.tasks.heads.comparison import compare, prepared, task_of
from tests.camapp.tasks.heads.twins import Twin

SIDE, LABELS = 160, ("ant", "bee", "cat")


def decoded(twin: Twin, side: int, classes: int) -> str:
    """Add boxes in pixels (1, 4, cells) and sigmoided scores (1, classes, cells), and join them."""
    boxes, scores = [], []
    for stride in (8, 16, 32):
        boxes.append(twin.reshape(twin.conv(stride, [0, 0, 3, 2.5], [0.3, 0.3, 0.5, 0.4]), 1, 4, -1))
        scores.append(twin.reshape(twin.conv(stride, [-2] * classes, [1.5] * classes), 1, classes, -1))
    y_x = [np.mgrid[: side // stride, : side // stride][::-1].reshape(2, -1) + 0.5 for stride in (8, 16, 32)]
    strides = np.concatenate([np.full((1, (side // stride) ** 2), stride, np.float32) for stride in (8, 16, 32)], 1)
    cells = np.concatenate(y_x, 1).astype(np.float32)
    offsets = twin.constant(np.concatenate([cells, np.zeros_like(cells)])[None])
    pixels = twin.node("Mul", twin.node("Add", twin.concat(*boxes, axis=2), offsets), twin.constant(strides[None]))
    return twin.concat(pixels, twin.node("Sigmoid", twin.concat(*scores, axis=2)), axis=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    twin = Twin(prepared(Yolov8Head.input, SIDE, SIDE), (8, 16, 32))
    output = twin.node("Identity", decoded(twin, SIDE, len(LABELS)), outputs=["output0"])
    metadata = {"names": str(dict(enumerate(LABELS))), "task": "detect", "imgsz": f"[{SIDE}, {SIDE}]", "stride": "32"}
    path = tmp_path_factory.mktemp("yolov8") / "a.onnx"
    return twin.save(path, {output: (1, 4 + len(LABELS), 525)}, metadata=metadata)


def test_boxes_are_those_of_the_published_suppression(file):
    task = task_of(file)
    assert (task.name, task.head.name, task.card.labels) == ("detect", "yolov8", LABELS)

    def reference(outputs, fit):
        return published.found(published.yolov8(outputs, 0.25, 0.7), LABELS, fit)

    compare(file, reference, least=20)
