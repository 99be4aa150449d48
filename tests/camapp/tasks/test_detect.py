import logging

import cv2
import numpy as np
import pytest

import camapp
from camapp.commands.classify.job import FilesJob, FilesOptions
from camapp.core.frames import Frame, Shot
from camapp.core.image import Image, Layout
from camapp.core.models import load_model
from camapp.core.settings import load_settings
from camapp.tasks.heads import head
from camapp.tasks.heads.head import Candidates, Head, InputFormat
from camapp.tasks.task import TaskOptions, create_task, task_for
from engine.model_card import ModelCard, Output
from tests.camapp.tasks.heads.comparison import photos, prepared
from tests.camapp.tasks.heads.twins import Twin

FORM = InputFormat(colour="BGR", std=(1 / 255,), fill=114, corner=True)
LABELS = ("ant", "bee", "cat")
CARD = ModelCard(
    "any", "detect", (3, 32, 64), labels=LABELS, head="yolov8", outputs=(Output("output0", (7, 42), ("Concat",)),)
)


def shot(width, height, view=None):
    image, shown = (
        Image.of(np.full((h, w, 3), 128, np.uint8), Layout.RGB) for w, h in ((width, height), view or (width, height))
    )
    return Frame(5, Shot(shown, image))


def objects(*found):
    """Return the output of a net that finds objects: x, y, w, h, then the score of each class."""
    output = np.zeros((1, 7, 42), np.float32)
    for column, numbers in enumerate(found):
        output[0, :, column] = numbers
    return [output]


def run(outputs, frame=None, card=CARD, **options):
    task = create_task("detect", card, TaskOptions(**options))
    frame = frame or shot(64, 32)
    return task.decode(frame, outputs, task.prepare(frame, np.zeros((1, *card.input_shape), np.float32)), 0)


def test_boxes_counts_and_the_best_labels():
    found = run(objects((10, 10, 8, 6, 0, 0.9, 0), (40, 20, 4, 4, 0, 0.6, 0.1), (50, 5, 6, 6, 0.7, 0, 0)))
    assert (found.seq, found.task, found.label, found.score) == (5, "detect", "bee", pytest.approx(0.9))
    assert (found.raw_label, found.raw_score) == (found.label, found.score)
    assert found.counts == {"bee": 2, "ant": 1}
    assert found.top == (("bee", pytest.approx(0.9)), ("ant", pytest.approx(0.7)))
    assert [(box.label, box.x0, box.y0, box.x1, box.y1) for box in found.boxes] == [
        ("bee", 6, 7, 14, 13), ("ant", 47, 2, 53, 8), ("bee", 38, 18, 42, 22)
    ]  # fmt: skip
    assert (found.region.x0, found.region.y0, found.region.x1, found.region.y1) == (0, 0, 64, 32)


def test_boxes_are_in_pixels_of_the_view_and_clipped_to_it():
    # A portrait in the middle of the input, 16 wide: half as large as the picture, which is a quarter of the view.
    outputs = objects((32, 16, 8, 8, 0, 0.9, 0), (40, 16, 16, 8, 0.8, 0, 0), (4, 16, 8, 8, 0.8, 0, 0))
    found = run(outputs, shot(32, 64, view=(128, 256)))
    assert [(box.x0, box.y0, box.x1, box.y1) for box in found.boxes] == [(32, 96, 96, 160), (64, 96, 128, 160)]


def test_no_object_is_no_label():
    found = run(objects())
    assert (found.label, found.score, found.boxes, found.counts, found.top) == ("", 0.0, (), {}, ())


def test_score_iou_and_classes_are_chosen_by_the_settings():
    outputs = objects((10, 10, 8, 8, 0, 0.9, 0), (12, 10, 8, 8, 0, 0.6, 0.1), (50, 5, 6, 6, 0.3, 0, 0))
    assert run(outputs).counts == {"bee": 2, "ant": 1}
    assert run(outputs, score=0.5).counts == {"bee": 2}
    assert run(outputs, iou=0.5).counts == {"bee": 1, "ant": 1}
    assert run(outputs, classes=("ant", "cat")).counts == {"ant": 1}


def test_numbers_that_are_not_finite_are_ignored_and_logged_once(caplog):
    outputs = objects((10, 10, 8, 8, 0, 0.9, 0), (np.nan, 10, 8, 8, 0, 0.6, 0), (50, 5, 6, 6, np.nan, 0.8, 0))
    task = create_task("detect", CARD, TaskOptions())
    ready = task.prepare(shot(64, 32), np.zeros((1, 3, 32, 64), np.float32))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert task.decode(shot(64, 32), outputs, ready, 0).counts == {"bee": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 294 numbers that the model gives are NaN or infinite, and are ignored (logged once)"
    ]
    with pytest.raises(ValueError, match="NaN or infinity only"):
        task.decode(shot(64, 32), [np.full((1, 7, 42), np.nan, np.float32)], ready, 0)


@pytest.mark.parametrize(
    ("card", "options", "reason"),
    [
        ({"labels": ("a", "b")}, {}, r"3 classes apart \(head 'yolov8'\), but 2 labels are given; give --labels"),
        ({}, {"head": "yolox"}, r"head 'yolox' needs outputs \[cells.*; the model has output0 \[7, 42\]"),
        ({}, {"head": "yolo"}, "unknown head 'yolo'; known are yolox, "),
        ({}, {"classes": ("cot",)}, "--classes: the model has no class 'cot'; did you mean 'cat'"),
        ({}, {"classes": ("zebra",)}, "the model has no class 'zebra'; it has ant, bee, cat"),
        ({"head": "", "outputs": (Output("y", (85, 7, 9)), Output("z", (4,)))}, {},
         r"outputs y \[85, 7, 9\], z \[4\] of the model are of no known detector; --head may be one of yolox, "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_the_start(card, options, reason):
    values = {name: getattr(CARD, name) for name in ("net", "task", "input_shape", "labels", "head", "outputs")}
    with pytest.raises(ValueError, match=reason):
        create_task("detect", ModelCard(**values | card), TaskOptions(**options))


def test_the_head_states_the_input_unless_the_card_or_the_settings_do(monkeypatch):
    class Bgr(Head):
        name = "bgr"
        layout = "any"
        input = InputFormat(colour="BGR", mean=(0.1, 0.2, 0.3), std=(1 / 255,))

        @classmethod
        def classes_of(cls, card):
            return 1

        def decode(self, outputs, min_score):
            return Candidates(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))

    monkeypatch.setitem(head.REGISTRY, "bgr", "tests:bgr")
    monkeypatch.setattr(head, "head_class", lambda name: Bgr)

    def completed(options, **card):
        card = ModelCard("any", "detect", outputs=(Output("y", (1,)),), **card)
        return create_task("detect", card, TaskOptions(head="bgr", **options)).card

    guessed = completed({})
    assert (guessed.colour, guessed.mean, guessed.std) == ("BGR", (0.1, 0.2, 0.3), pytest.approx((1 / 255,) * 3))
    stated = completed({"mean": (0.0,) * 3, "colour": "RGB"})
    assert (stated.colour, stated.mean, stated.std) == ("RGB", (0, 0, 0), pytest.approx((1 / 255,) * 3))
    own = completed({}, head="bgr")
    assert (own.colour, own.mean, own.std) == ("RGB", (0, 0, 0), (1, 1, 1))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A net of YOLOX's form."""
    twin, levels = Twin(prepared(FORM, 64, 64), (8, 16, 32)), []
    for stride in (8, 16, 32):
        box = twin.conv(stride, [0.5, 0.5, 1, 1], [0.3, 0.3, 0.3, 0.3])
        scores = [twin.node("Sigmoid", twin.conv(stride, [0.0] * n, [2.0] * n)) for n in (1, 3)]
        levels.append(twin.reshape(twin.concat(box, *scores, axis=1), 1, 8, -1))
    output = twin.node("Transpose", twin.concat(*levels, axis=2), perm=(0, 2, 1), outputs=["output"])
    return twin.save(tmp_path_factory.mktemp("detect") / "a.onnx", {output: (1, 84, 8)})


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    cv2.imwrite(str(path), photos()[0].bgr())
    return path


def test_single_images_folders_and_runs_find_the_same_boxes(file, picture):
    labels = {"labels": "ant,bee,cat"}
    found = camapp.load(file, **labels).predict(picture)
    assert len(found.boxes) > 3
    settings = load_settings({"model": str(file), **labels}, environment={})
    job = FilesJob(load_model(settings), FilesOptions(TaskOptions.of(settings), 4, "none", (), "a"))
    rows = [row.prediction for row in job.rows([str(picture)] * 3)]
    with camapp.watch(picture, model=file, workers=1, **labels) as results:
        rows += [result.prediction for result in results]
    assert len(rows) == 4
    for row in rows:
        assert (row.label, row.counts) == (found.label, found.counts)
        for box, expected in zip(row.boxes, found.boxes, strict=True):
            assert (box.label, box.x0, box.y1) == (
                expected.label,
                pytest.approx(expected.x0),
                pytest.approx(expected.y1),
            )


def test_an_unknown_class_is_refused_at_the_start(file):
    with pytest.raises(camapp.BadModel, match="the model has no class 'cot'; did you mean 'cat'"):
        camapp.load(file, labels="ant,bee,cat", classes="cot")


def passing(still=False, **options):
    """Return the predictions for a bee that flies to the right: missed before the middle, weak after it."""
    task = create_task("detect", CARD, TaskOptions(score=0.5, **options))
    view = Image.of(np.full((32, 64, 3), 128, np.uint8), Layout.RGB)
    predictions = []
    for index, x in enumerate(range(10, 54, 2)):
        score = 0.0 if index in (8, 9, 10) else 0.2 if index in (13, 14) else 0.9
        frame = Frame(index, Shot(view, view, still=still))
        outputs = objects((x, 16, 8, 8, 0, score, 0))
        ready = task.prepare(frame, np.zeros((1, *CARD.input_shape), np.float32))
        predictions.append(task.decode(frame, outputs, ready, index * 10**8))
    return task, predictions


GATE, RIGHT = "gate=0.5,1,0.5,0", "right=0.6,0 1,0 1,1 0.6,1"


def test_objects_are_followed_and_counted():
    task, predictions = passing(line=(GATE,), zone=(RIGHT,))
    assert {box.track for prediction in predictions for box in prediction.boxes} == {1}
    # Missed, and then seen too weakly for a new object.
    assert [len(prediction.boxes) for prediction in predictions[7:16]] == [1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert all(prediction.counts == {"bee": 1} for prediction in predictions)
    (gate,), (right,) = predictions[-1].counting_lines, predictions[-1].zones
    assert (gate.name, gate.start, gate.end, gate.into, gate.out) == ("gate", (32, 32), (32, 0), {"bee": 1}, {})
    assert (right.name, right.inside, right.entered, right.left) == ("right", {"bee": 1}, {"bee": 1}, {})
    task.reset()
    changed = create_task("detect", CARD, TaskOptions(score=0.6, line=(GATE, "new=0,0,1,1")))
    changed.take_over(task)
    ready = changed.prepare(shot(64, 32), np.zeros((1, 3, 32, 64), np.float32))
    found = changed.decode(shot(64, 32), objects((10, 16, 8, 8, 0, 0.9, 0)), ready, 10**10)
    assert [line.into for line in found.counting_lines] == [{"bee": 1}, {}]
    # Numbers are not given twice, and the object is none of those from before the reset.
    assert [box.track for box in found.boxes] == [2]


def test_separate_pictures_are_not_followed():
    _, predictions = passing(still=True, line=(GATE,), zone=(RIGHT,))
    assert {box.track for prediction in predictions for box in prediction.boxes} == {0}
    assert [prediction.counts for prediction in predictions[7:12]] == [{"bee": 1}, {}, {}, {}, {"bee": 1}]
    assert not predictions[-1].counting_lines[0].into
    assert not predictions[-1].zones[0].inside


def test_zones_of_a_model_without_objects_are_warned_of(caplog):
    settings = load_settings({"zone": [RIGHT]}, environment={})
    task_for(settings, CARD)
    assert not caplog.records
    task_for(settings, ModelCard("any", "classify", (3, 32, 64), labels=LABELS))
    assert "count nothing: the model's task is 'classify'" in caplog.text
