from dataclasses import replace

import numpy as np
import pytest

from camapp.core.frames import Frame, Shot
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box
from camapp.tasks.classify import ClassifyTask
from camapp.tasks.task import TaskOptions, create_task
from engine.model import ModelCard
from engine.model_card import Output

LABELS = ("cat", "dog", "hen", "owl")
CARD = ModelCard(net="any", input_shape=(3, 8, 8), colour="RGB", labels=LABELS)


def frame(seq=0, view=(64, 32), model=None):
    images = [Image.of(np.full((h, w, 3), 128, np.uint8), Layout.RGB) for w, h in (view, model or view)]
    return Frame(seq, Shot(*images))


def logits(*scores):
    return [np.log(np.array([scores], np.float32))]


def run(task, shot, outputs, now_s=0.0):
    batch = np.zeros((1, 3, 8, 8), np.float32)
    prepared = task.prepare(shot, batch)
    assert prepared.count == 1
    assert np.allclose(batch, 128 / 255)
    return task.decode(shot, outputs, prepared, int(now_s * 1e9))


def test_the_best_labels_have_probabilities_and_the_region():
    task = create_task("classify", CARD, TaskOptions(top=2))
    found = run(task, frame(seq=9), logits(0.1, 0.6, 0.2, 0.1))
    assert isinstance(task, ClassifyTask)
    assert (found.seq, found.task, found.label, found.raw_label) == (9, "classify", "dog", "dog")
    assert found.score == pytest.approx(0.6)
    assert [name for name, _ in found.top] == ["dog", "hen"]
    assert [score for _, score in found.top] == pytest.approx([0.6, 0.2])
    assert found.region == Box(16, 0, 48, 32)


def test_the_region_is_in_pixels_of_the_view():
    found = run(create_task("classify", CARD, TaskOptions()), frame(view=(64, 32), model=(16, 16)), logits(1, 1, 1, 1))
    assert found.region == Box(0, 0, 64, 32)


def test_a_single_outlier_changes_only_the_raw_label():
    task = create_task("classify", CARD, TaskOptions(smoothing=0.3))
    for step in range(10):
        run(task, frame(), logits(0.9, 0.1, 1e-6, 1e-6), step / 30)
    outlier = run(task, frame(), logits(0.05, 0.95, 1e-6, 1e-6), 10 / 30)
    assert (outlier.label, outlier.raw_label) == ("cat", "dog")
    assert outlier.raw_score == pytest.approx(0.95, abs=1e-4)
    assert outlier.score > 0.7


def test_uncertain_images_have_only_a_raw_label():
    found = run(create_task("classify", CARD, TaskOptions()), frame(), logits(0.3, 0.25, 0.25, 0.2))
    assert (found.label, found.score, found.raw_label) == ("", 0.0, "cat")


def test_reset_clears_the_average():
    task = create_task("classify", CARD, TaskOptions(smoothing=5.0))
    run(task, frame(), logits(1, 1e-6, 1e-6, 1e-6))
    task.reset()
    assert run(task, frame(), logits(1e-6, 1, 1e-6, 1e-6), 0.01).label == "dog"


def test_without_labels_classes_are_numbers_and_top_is_limited_by_the_outputs():
    card = ModelCard(net="any", input_shape=(3, 8, 8), colour="RGB")
    found = run(create_task("classify", card, TaskOptions(top=9)), frame(), logits(0.1, 0.1, 0.7, 0.1))
    assert found.label == "2"
    assert len(found.top) == 4


def test_an_unknown_task_raises_an_error_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'guess'; known are classify, detect, digits"):
        create_task("guess", CARD, TaskOptions())


@pytest.mark.parametrize(
    ("operators", "values", "score"),
    [
        (("Gemm",), np.log([0.1, 0.6, 0.2, 0.1]), 0.6),
        (("Softmax",), [0.1, 0.6, 0.2, 0.1], 0.6),
        (("Sigmoid",), [0.1, 0.9, 0.8, 0.7], 0.9),
        (("LogSoftmax",), np.log([0.1, 0.6, 0.2, 0.1]), 0.6),
    ],
)
def test_scores_of_a_net_that_ends_in_an_activation_are_taken_as_they_are(operators, values, score):
    card = replace(CARD, outputs=(Output("y", (4,), operators),))
    outputs = [np.array([values], np.float32)]
    task = create_task("classify", card, TaskOptions())
    assert run(task, frame(), outputs).score == pytest.approx(score)
    still = frame().view
    ready = task.prepare(Frame.still(still), np.zeros((1, 3, 8, 8), np.float32))
    (found,) = task.decode_stills([still], outputs, [ready])
    assert (found.label, found.score) == ("dog", pytest.approx(score))


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ((Output("a", (4,)), Output("b", (4,))), r"the model has a \[4\], b \[4\]: is it a detector\?"),
        (
            (Output("a", (4, 7, 7)),),
            r"needs one output with one number for each class, but the model has a \[4, 7, 7\]",
        ),
        ((Output("a", (5,)),), "5 classes apart, but 4 labels are given; give --labels"),
    ],
)
@pytest.mark.parametrize("task", ["classify", "digits"])
def test_a_model_that_tells_no_classes_apart_is_refused_at_the_start(task, outputs, reason):
    card = ModelCard("any", input_shape=(3, 28, 28), labels=LABELS, outputs=outputs)
    with pytest.raises(ValueError, match=reason):
        create_task(task, card, TaskOptions())


def test_digits_and_track_refuse_other_nets_at_the_start():
    card = ModelCard("any", input_shape=(3, 28, 28), outputs=(Output("y", (1000,)),))
    with pytest.raises(ValueError, match="'digits' needs a model of ten classes, not 1000"):
        create_task("digits", card, TaskOptions())
    with pytest.raises(
        ValueError, match=r"'track' needs one output of \d+ maps, but the model has outputs of \[\(1000,\)\]"
    ):
        create_task("track", card, TaskOptions())
