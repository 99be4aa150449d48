"""Each head beside the post-processing that its authors publish, on photographs and a small twin of its nets."""

import numpy as np
import pytest

from camapp.core.frames import Frame
from camapp.core.model_table import labels_named
from camapp.tasks.heads.yolox import YoloxHead
from tests.camapp.tasks.heads import families, published
from tests.camapp.tasks.heads.comparison import Found, compare, compared, mask_overlap, photos, prepared, task_of
from tests.camapp.tasks.heads.families import ANCHORS, LABELS

NAMED = {"labels": ",".join(LABELS)}
SIZE = (160, 128)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("twins"), {}

    def build(family):
        if family not in made:
            made[family] = getattr(families, family)(folder / f"{family}.onnx")
        return made[family]

    return build


def rows(decode, labels=LABELS):
    """Return a function that `compare` calls: rows of `decode(outputs)` as objects in the image."""
    return lambda outputs, fit: published.found(decode(outputs), labels, fit)


def faces(decode):
    def in_image(outputs, fit):
        found = []
        for box, points, score in decode(outputs):
            places = [published.in_image(point, fit) for point in points]
            found.append(Found(published.in_image(box, fit), "face", score, places))
        return [face for face in found if face.box[2] > face.box[0] and face.box[3] > face.box[1]]

    return in_image


def by_name(outputs, names):
    return dict(zip(names, outputs, strict=True))


YUNET = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
BLAZEFACE = [f"{kind}_{stride}" for kind in ("classificators", "regressors") for stride in (8, 16)]
FACE, VOWELS = ["face"], {"labels": "a,e,i,o,u"}


def nanodet(outputs):
    # In the file's order, which is that of the names: 16, 32, 8.
    levels = [(outputs[at][0], outputs[at + 3][0], stride) for at, stride in ((2, 8), (0, 16), (1, 32))]
    return published.distributions(levels, SIZE, 0.5, 0.35, 0.6)


def nanodet_plus(outputs):
    return published.distributions(_split(outputs[0][0]), (192, 128), 0, 0.35, 0.6)


def picodet(outputs):
    levels = [(outputs[at][0], outputs[at + 4][0], 8 << at) for at in range(4)]
    return published.distributions(levels, (128, 128), 0.5, 0.4, 0.5)


def ultraface(outputs):
    return published.ssd(outputs[0][0], outputs[1][0], (128, 128), 0.7, 0.3, None)


def ultraface_raw(outputs):
    priors = published.ultraface_priors(128, 128)
    return published.ssd(outputs[0][0], outputs[1][0], (128, 128), 0.7, 0.3, priors)


def fastestv2(outputs):
    return published.yolo_fastestv2(outputs, ANCHORS, SIZE, 0.3, 0.4)


# Family -> its head, the published post-processing, and what the settings must state.
CASES = {
    "yolox": ("yolox", rows(lambda outputs: published.yolox(outputs, SIZE, 0.3, 0.45), labels_named("coco")), {}),
    "yolov5": ("yolov5", rows(lambda outputs: published.yolov5(outputs, 0.25, 0.45)), NAMED),
    "yolov6": ("yolov5", rows(lambda outputs: published.yolov5(outputs, 0.25, 0.45)), NAMED),
    "yolov8": ("yolov8", rows(lambda outputs: published.yolov8(outputs, 0.25, 0.7)), {}),
    "yolov10": ("yolov10", rows(lambda outputs: published.yolov10(outputs, 0.25)), {}),
    "yolov3": ("yolov3", rows(lambda outputs: published.yolov3(outputs, ANCHORS, SIZE, 0.25, 0.45)), NAMED),
    "yolo_fastestv2": ("yolo-fastestv2", rows(fastestv2, "aeiou"), VOWELS),
    "fastestdet": ("fastestdet", rows(lambda outputs: published.fastestdet(outputs, SIZE, 0.65, 0.45)), NAMED),
    "nanodet": ("nanodet", rows(nanodet), NAMED),
    "nanodet_plus": ("nanodet", rows(nanodet_plus), NAMED),
    "picodet": ("picodet", rows(picodet), NAMED),
    "ultraface": ("ssd", rows(ultraface, FACE), {}),
    "ultraface_raw": ("ssd", rows(ultraface_raw, FACE), {}),
    "yunet": ("yunet", faces(lambda outputs: published.yunet(by_name(outputs, YUNET), SIZE, 0.6, 0.3)), {}),
    "blazeface": (
        "blazeface",
        faces(lambda outputs: published.blazeface(by_name(outputs, BLAZEFACE), 128, 0.75, 0.3)),
        {},
    ),
}


def _split(rows):
    found, start = [], 0
    for stride in (8, 16, 32, 64):
        end = start + families.count(192, 128, (stride,))
        found.append((rows[start:end, :3], rows[start:end, 3:], stride))
        start = end
    return found


@pytest.mark.parametrize("family", CASES)
def test_boxes_are_those_of_the_published_post_processing(file, family):
    head, reference, options = CASES[family]
    assert task_of(file(family), **options).head.name == head
    compare(file(family), reference, least=15, **options)


def test_yoloxs_letterbox_is_grey_and_the_image_in_its_corner():
    item = prepared(YoloxHead.input, 64, 640)
    assert (item[:, -1] == np.float32(114)).all()
    assert item[:, :8].max() > 120


def test_a_segmented_object_has_the_published_mask(file):
    def reference(outputs, fit):
        numbers, prototypes = outputs[0][0], outputs[1][0]
        boxes = published.yolov8([numbers[None, :7]], 0.25, 0.7)
        found = []
        for box, number, score in boxes:
            weights = numbers[7:, _column(numbers, box)]
            mask = published.process_mask(prototypes, weights, box, (128, 160))
            found.append(Found(published.in_image(box, fit), LABELS[number], score, mask=mask))
        return [one for one in found if one.box[2] > one.box[0] and one.box[3] > one.box[1]]

    path = file("yolov8_seg")
    assert task_of(path).head.name == "yolov8-seg"
    results = compared(path, reference)
    assert mask_overlap(results, (128, 160)) > 0.96


def _column(numbers, box):
    """The column of YOLOv8's rows that a box comes from."""
    centres, sizes = numbers[:2].T, numbers[2:4].T
    corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    return int(np.abs(corners - box).sum(axis=1).argmin())


def test_key_points_are_in_the_image_with_their_scores(file):
    path = file("yolov8_pose")
    assert task_of(path).head.name == "yolov8-pose"

    def reference(outputs, fit):
        numbers = outputs[0][0]
        found = []
        for box, number, score in published.yolov8([numbers[None, :7]], 0.25, 0.7):
            points = numbers[7:, _column(numbers, box)].reshape(4, 3)
            places = [(*published.in_image(point[:2].tolist(), fit), point[2]) for point in points]
            found.append(Found(published.in_image(box, fit), LABELS[number], score, places))
        return [one for one in found if one.box[2] > one.box[0] and one.box[3] > one.box[1]]

    (first, *_) = compare(path, reference, least=15)
    assert {len(box.points) for box in first.boxes} == {4}
    assert len({point.score for box in first.boxes for point in box.points}) > 10


def test_rotated_boxes_are_suppressed_by_their_gaussians(file):
    path = file("yolov8_obb")
    assert task_of(path).head.name == "yolov8-obb"
    compare(path, lambda outputs, fit: published.yolov8_obb(outputs, 0.25, 0.7, LABELS, fit), least=15, images=1)


@pytest.mark.parametrize("family", ["segment", "segment_one"])
def test_a_map_gives_an_object_for_each_class(file, family):
    labels = {"labels": ",".join(LABELS) if family == "segment" else "road,"}
    path = file(family)
    assert task_of(path, **labels).head.name == "segment"
    names = LABELS if family == "segment" else ("road",)
    (first, *_) = compare(
        path, lambda outputs, fit: published.segment(outputs[0][0], names, (160, 128), fit), 2, **labels
    )
    assert all(box.outlines for box in first.boxes)
    for outline in (outline for box in first.boxes for outline in box.outlines):
        x, y = np.array(outline).T
        assert first.region.x0 <= x.min() <= x.max() <= first.region.x1
        assert first.region.y0 <= y.min() <= y.max() <= first.region.y1


def test_ssdlite_has_torchvisions_priors_and_names(file):
    task = task_of(file("ssdlite"))
    assert (task.head.name, task.card.labels[0], task.card.labels[11], task.card.labels[-1]) == (
        "ssdlite", "person", "street sign", "toothbrush",
    )  # fmt: skip
    priors = published.ssdlite_priors(128)
    assert len(published.ssdlite_priors(320)) == 3234

    def reference(outputs, fit):
        logits = outputs[1][0]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        likely = powers / powers.sum(axis=1, keepdims=True)
        found = published.ssd(likely, outputs[0][0], (128, 128), 0.3, 0.55, priors)
        return published.found(found, task.card.labels, fit)

    compare(file("ssdlite"), reference, least=15)


ALL = {family: options for family, (_, _, options) in CASES.items()}
ALL |= {family: {} for family in ("yolov8_seg", "yolov8_pose", "yolov8_obb", "ssdlite")}


@pytest.mark.parametrize("family", [*ALL, "segment", "segment_one"])
def test_nothing_found_and_numbers_that_are_not_finite_give_no_objects(file, family):
    options = ALL.get(family, {"labels": ",".join(LABELS) if family == "segment" else "road,"})
    task = task_of(file(family), **options, score="1")
    frame = Frame.still(photos()[0])
    ready = task.prepare(frame, np.zeros((1, *task.card.input_shape), np.float32))
    rng = np.random.default_rng(0)
    outputs = [rng.uniform(0, 0.5, (1, *output.shape)).astype(np.float32) for output in task.card.outputs]
    assert task.decode(frame, outputs, ready, 0).boxes == ()
    task = task_of(file(family), **options, score="0.01")
    for output in outputs:
        output.flat[:: 1 + output.size // 97] = np.nan
        output.flat[5 :: 1 + output.size // 97] = np.inf
    if family == "yolov10":
        outputs[0][..., 5] = np.where(np.isfinite(outputs[0][..., 5]), 1, outputs[0][..., 5])
    for box in task.decode(frame, outputs, ready, 0).boxes:
        assert np.isfinite([box.x0, box.y0, box.x1, box.y1, box.score, box.angle]).all()
        assert np.isfinite([(point.x, point.y) for point in box.points]).all()
