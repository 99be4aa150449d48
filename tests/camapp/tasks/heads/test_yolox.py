import numpy as np
import pytest

from camapp.core.model_table import labels_named
from camapp.tasks.heads.yolox import YoloxHead
from tests.camapp.tasks.heads import published
from tests.camapp.tasks.heads.comparison import compare, prepared, task_of
from tests.camapp.tasks.heads.twins import Twin

WIDTH, HEIGHT, CLASSES = 160, 128, 80


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The outputs of YOLOX's export: not decoded, scores sigmoided, one row a cell."""
    twin, levels = Twin(prepared(YoloxHead.input, WIDTH, HEIGHT), (8, 16, 32)), []
    for stride in (8, 16, 32):
        box = twin.conv(stride, [0.5, 0.5, 1.2, 1.0], [0.5, 0.5, 0.4, 0.4])
        scores = [twin.node("Sigmoid", twin.conv(stride, [mean] * n, [2.0] * n)) for mean, n in ((0, 1), (-4, CLASSES))]
        levels.append(twin.reshape(twin.concat(box, *scores, axis=1), 1, 5 + CLASSES, -1))
    output = twin.node("Transpose", twin.concat(*levels, axis=2), perm=(0, 2, 1), outputs=["output"])
    return twin.save(tmp_path_factory.mktemp("yolox") / "a.onnx", {output: (1, 420, 5 + CLASSES)})


def test_boxes_are_those_of_the_published_demo(file):
    labels = labels_named("coco")
    task = task_of(file)
    assert task.head.name == "yolox"
    assert (task.card.colour, task.card.labels) == ("BGR", labels)
    assert task.card.std == pytest.approx((1 / 255,) * 3)

    def reference(outputs, fit):
        assert fit.target[:2] == (0, 0)
        return published.found(published.yolox(outputs, (WIDTH, HEIGHT), 0.3, 0.45), labels, fit)

    compare(file, reference, least=20)


def test_the_letterbox_is_grey_and_the_image_in_its_corner(file):
    item = prepared(YoloxHead.input, 64, 640)
    assert (item[:, -1] == np.float32(114)).all()
    assert item[:, :8].max() > 120
