import numpy as np
import pytest

from camapp.core.frames import Frame, Shot
from camapp.core.image import Image, Layout
from camapp.tasks.rejection import Rejection, energy
from camapp.tasks.task import TaskOptions, create_task
from engine.model import ModelCard

LEVELS = {"0.01": 4.0, "0.1": 8.0, "0.05": 6.0}
CARD = ModelCard(net="any", input_shape=(3, 8, 8), labels=("cat", "dog", "hen"), rejection=LEVELS)
SURE, UNSURE = (9.0, 1.0, 0.0), (2.0, 1.0, 0.0)


def test_the_energy_is_exact_and_does_not_overflow():
    logits = np.array([[0, 0, 0], [1000, 999, 0], [-1000, -1000, -1000]], np.float32)
    expected = [np.log(3), 1000 + np.log1p(np.exp(-1)), -1000 + np.log(3)]
    assert energy(logits) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("share", "least"), [(0.01, 4), (0.05, 6), (0.03, 5), (0.001, 4), (0.2, 8), (0, -np.inf)]
)  # fmt: skip
def test_the_threshold_lies_between_the_measured_shares(share, least):
    assert Rejection(CARD, share).least == pytest.approx(least)


def test_a_model_without_measured_energies_refuses_nothing():
    rejection = Rejection(ModelCard(net="any"), 0.1)
    assert rejection.accepts(np.array([[-9.0, -9.0]], np.float32)).tolist() == [True]


def still(task, *rows):
    images = [Image.of(np.full((8, 8, 3), 128, np.uint8), Layout.RGB)] * len(rows)
    batch = np.zeros((len(rows), 3, 8, 8), np.float32)
    prepared = [task.prepare(Frame.still(image), batch[i:]) for i, image in enumerate(images)]
    return task.decode_stills(images, [np.array(rows, np.float32)], prepared)


def test_an_image_that_is_none_of_the_classes_has_no_label_but_its_best_ones():
    sure, unsure = still(create_task("classify", CARD, TaskOptions()), SURE, UNSURE)
    assert (sure.label, sure.raw_label, sure.hint) == ("cat", "cat", "")
    assert (unsure.label, unsure.score, unsure.raw_label, unsure.raw_score) == ("", 0.0, "", 0.0)
    assert [label for label, _ in unsure.top] == ["cat", "dog", "hen"]
    assert unsure.hint == "none of its classes"


def test_the_setting_turns_it_off():
    (unsure,) = still(create_task("classify", CARD, TaskOptions(reject=0)), UNSURE)
    assert unsure.label == "cat"


def live(task, seconds, row):
    image = Image.of(np.full((8, 8, 3), 128, np.uint8), Layout.RGB)
    frame = Frame(0, Shot(image, image))
    prepared = task.prepare(frame, np.zeros((1, 3, 8, 8), np.float32))
    return task.decode(frame, [np.array([row], np.float32)], prepared, int(seconds * 1e9))


def test_a_single_unknown_frame_keeps_the_label_and_several_drop_it():
    task = create_task("classify", CARD, TaskOptions(smoothing=0.3))
    for step in range(30):
        assert live(task, step / 30, SURE).label == "cat"
    once = live(task, 1, UNSURE)
    assert (once.label, once.raw_label, once.hint) == ("cat", "", "")
    for step in range(1, 30):
        last = live(task, 1 + step / 30, UNSURE)
    assert (last.label, last.hint) == ("", "none of its classes")
    assert last.top[0][0] == "cat"
