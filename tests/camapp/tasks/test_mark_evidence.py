import cv2
import numpy as np

from camapp.core.frames import Frame
from camapp.core.image import Image, Layout
from camapp.scenes.digits import DigitScene
from camapp.scenes.objects import ObjectScene
from camapp.scenes.scene import SceneOptions
from camapp.tasks.digit_segmentation import find_marks
from camapp.tasks.digits import HINT
from camapp.tasks.mark_evidence import evidence
from camapp.tasks.task import TaskOptions, create_task
from engine.model import ModelCard

SIZE = (640, 480)
CARD = ModelCard(net="any", task="digits", input_shape=(1, 28, 28), colour="GRAY", labels=tuple("0123456789"))


def marks(kind, seeds, anywhere=False):
    found = []
    for seed in seeds:
        pixels, _ = kind(SceneOptions(size=SIZE, seed=seed)).render(13 * seed)
        found += find_marks(Image.of(pixels, Layout.RGB).gray(), 8, anywhere=anywhere)
    return found


def test_digits_on_paper_are_kept_and_shapes_of_a_chart_are_not():
    digits, shapes = (marks(kind, range(2000, 2012), anywhere=True) for kind in (DigitScene, ObjectScene))
    assert len(marks(DigitScene, range(2000, 2012))) == len(digits) > 20
    assert len(marks(ObjectScene, range(2000, 2012))) < len(shapes) / 4


def seven(ground):
    """Return this ground with a 7 drawn on it."""
    image = ground.copy()
    cv2.polylines(image, [np.array([[280, 150], [360, 150], [310, 290]])], False, (110,), 13, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1), np.uint8)


def test_a_stroke_is_read_on_paper_and_not_on_planks():
    planks = np.tile(np.repeat(np.array([167, 190], np.uint8), 16), (480, 20))
    assert len(find_marks(seven(np.full_like(planks, 190)), 8)) == 1
    assert len(find_marks(seven(planks), 8, anywhere=True)) == 1
    assert find_marks(seven(planks), 8) == []


def test_the_evidence_of_digits_is_high_and_finite_for_any_look():
    looks = np.array([mark.look for mark in marks(DigitScene, range(2000, 2004))])
    assert (evidence(looks) > 0).mean() > 0.9
    assert np.isfinite(evidence(np.array([[1e6] * 9, [-1e6] * 9]))).all()


def test_the_preview_says_what_to_show_if_there_is_nothing_to_read():
    task = create_task("digits", CARD, TaskOptions())
    frame = Frame.still(Image.of(np.full((480, 640), 220, np.uint8), Layout.GRAY))
    prepared = task.prepare(frame, np.zeros((8, 1, 28, 28), np.float32))
    assert task.decode(frame, [np.zeros((0, 10), np.float32)], prepared, 0).hint == HINT


def test_the_setting_reads_marks_anywhere():
    scene = ObjectScene(SceneOptions(size=SIZE, seed=2001))
    frame = Frame.still(Image.of(scene.render(0)[0], Layout.RGB))
    strict, free = (
        create_task("digits", CARD, TaskOptions(reject=share)).prepare(frame, np.zeros((8, 1, 28, 28), np.float32))
        for share in (0.01, 0)
    )
    assert strict.count <= free.count
