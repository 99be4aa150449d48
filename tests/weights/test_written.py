from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import engine
from camapp.core.frames import Truth
from camapp.core.predictions import Box
from engine import nets
from engine.model import Model
from tests.weights.made_data import SHARED
from weights import WeightsError, written
from weights.datasets import load

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


@pytest.fixture(scope="module")
def mnist():
    if not (SHARED / "mnist").is_dir():
        pytest.skip("the real MNIST is not on this machine")
    return load("mnist", SHARED, download=False)


def test_the_application_reads_digits_off_paper(mnist):
    done = []
    result = written.read_scenes(engine.load(WEIGHTS / "mnist.npz"), mnist.test[:60], lambda *step: done.append(step))
    assert result.digits == 60
    assert result.accuracy > 0.9
    assert result.whole <= result.scenes == len(done)
    assert done[-1] == (60, 60)
    assert "of 60 digits found and read right" in str(result)


def test_each_digit_is_compared_with_the_box_at_its_position():
    truth = Truth("12", (Box(0, 0, 10, 20, "1"), Box(50, 0, 60, 20, "2")))
    found = (Box(1, 1, 10, 20, "7"), Box(100, 0, 110, 20, "3"))
    assert written._compared(truth, found) == [("1", "7"), ("2", ""), ("", "3")]


def test_the_figures_count_missed_digits_and_false_marks():
    confusion = Counter({("1", "1"): 8, ("1", "7"): 1, ("2", ""): 1, ("", "3"): 2})
    result = written.Reading(confusion, scenes=5, whole=2, seconds=0.1)
    assert (result.digits, result.accuracy) == (10, 0.8)
    assert "(1 not found, 2 marks that are none); 40.00% of 5 images" in str(result)


def test_training_splits_get_marks_and_the_test_split_is_unchanged(mnist, monkeypatch):
    monkeypatch.setattr(written, "PEN_SCENES", 3)
    few = type(mnist)(
        mnist.name,
        mnist.classes,
        mnist.train[:50],
        mnist.validation[:20],
        mnist.test[:10],
        mnist.sha256,
        mnist.measured,
    )
    progress = []
    found = written.with_scenes(few, 30, lambda done, total: progress.append((done, total)))
    assert np.array_equal(found.train.images[:50], few.train.images)
    assert np.array_equal(found.validation.labels[:20], few.validation.labels)
    assert 28 <= len(found.train) - 50 - 30 + 30 <= 30 + 40
    assert 18 <= len(found.validation) - 20 <= 20
    assert found.test is few.test
    assert found.sha256 not in ("", few.sha256)
    assert progress[-1][0] >= 50
    again = written.with_scenes(few, 30)
    assert again.sha256 == found.sha256, "the same digits give the same scenes"


def test_nets_of_other_tasks_raise_an_error():
    graph = nets.build("cifar10")
    arrays = {name: np.zeros(shape, np.float32) for name, shape in graph.parameters.items()}
    with pytest.raises(WeightsError, match="net 'cifar10' is for task 'classify'"):
        written.read_scenes(Model(nets.default_card("cifar10"), graph.bind(arrays)), None)
