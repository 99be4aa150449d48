from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from camapp.tasks.rejection import Rejection, energy
from engine.model import Model, load
from engine.model_card import ModelCard
from tests.weights.test_command_line import ROOT
from weights.datasets import Images
from weights.evaluate import normalised
from weights.false_marks import false_marks
from weights.none_class import fitted_layer
from weights.outliers import KINDS, NEAR, outliers
from weights.rejection import measure

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 40, 24)])
def test_generated_images_have_the_form_of_the_data_and_depend_on_the_seed_alone(shape):
    images = Images(RNG.integers(0, 256, (20, *shape), np.uint8), np.zeros(20, np.uint8))
    made = outliers(images, 60, 1)
    assert made.shape == (60, *shape)
    assert made.dtype == np.uint8
    assert np.array_equal(made, outliers(images, 60, 1))
    assert not np.array_equal(made, outliers(images, 60, 2))


@pytest.mark.parametrize("kind", [*KINDS, *NEAR], ids=lambda kind: kind.__name__.strip("_"))
def test_no_kind_gives_back_an_image_of_the_data(kind):
    images = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)
    made = np.asarray(kind(images, np.random.default_rng(1)), float)
    assert made.shape == (32, 32, 3)
    assert min(np.abs(made - image).mean() for image in images) > 10


def test_the_near_ones_are_added_to_the_others():
    images = Images(RNG.integers(0, 256, (20, 3, 32, 32), np.uint8), np.zeros(20, np.uint8))
    monochrome = Images(np.full((20, 3, 32, 32), 100, np.uint8), images.labels)
    # All that is made of parts of a plain picture is plain, before the exposure is varied.
    plain = [made.std() < 3 for made in outliers(monochrome, 60, 1, near=1.0)]
    assert all(plain)
    assert outliers(images, 60, 1, near=0.5).shape == (60, 3, 32, 32)


def test_one_class_more_lowers_the_energy_of_generated_images_and_leaves_the_labels():
    model = load(ROOT / "weights" / "cifar10.npz")
    coarse = RNG.integers(0, 256, (400, 3, 4, 4), np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    logits = np.array(model.run(normalised(coarse, model.card)))
    # What the model is surest of passes for its own.
    surest = energy(logits).argsort()[-60:]
    images = Images(coarse[surest], logits[surest].argmax(axis=1))
    others = outliers(images, 60, 5, near=0.5)
    layer = fitted_layer(model, images, 1)
    graph = replace(model.graph, initializers={**model.graph.initializers, **layer})
    taught = Model(model.card, graph)

    def margins(logits):
        return logits - logits.max(axis=1, keepdims=True)

    def in_order(run):
        own, other = (energy(np.array(run(normalised(shown, model.card)))) for shown in (images.images, others))
        return np.mean(own[:, None] > other)

    for shown in (images.images, others):
        inputs = normalised(shown, model.card)
        np.testing.assert_allclose(margins(taught.run(inputs)), margins(np.array(model.run(inputs))), atol=1e-3)
    assert in_order(taught.run) > max(0.9, in_order(model.run))


def test_false_marks_are_cut_out_as_digits_are():
    digits = Images(RNG.integers(0, 256, (20, 1, 28, 28), np.uint8), np.zeros(20, np.uint8))
    marks = false_marks(digits, 20, 1)
    assert marks.shape == (20, 1, 28, 28)
    cut = marks[:14].reshape(14, -1)
    assert (cut.max(axis=1) > 200).all()
    assert marks[:14, :, 0].max() == 0, "a border as in MNIST"


def of_colour(card, images):
    """Return logits for red and blue: high for images of that colour alone."""
    mean = images.mean(axis=(2, 3))
    return 20 * np.stack([mean[:, 0] - mean[:, 1], mean[:, 2] - mean[:, 1]], axis=1)


def measured(monkeypatch, count, grey=True, spread=20):
    """Measure for red and blue images; the generated ones are grey, or else as red as those."""
    labels = np.arange(count, dtype=np.uint8) % 2
    images = np.zeros((count, 3, 32, 32), np.uint8)
    strengths = np.random.default_rng(1).normal(150, spread, (count, 1, 1)).clip(60, 255)
    images[np.arange(count), 2 * labels] = strengths
    others = np.full((100, 3, 32, 32), 120, np.uint8) if grey else images[:100]
    monkeypatch.setattr("weights.rejection.outliers", lambda held, number, seed: others)
    card = ModelCard(net="any", input_shape=(3, 32, 32), labels=("red", "blue"))
    model = SimpleNamespace(card=card, run=lambda batch: of_colour(card, batch))
    found = measure(model, Images(images, labels))
    logits = of_colour(card, images / np.float32(255))
    return found, card, logits


@pytest.mark.parametrize(("count", "within"), [(2000, 0.01), (40, 0.1)])
def test_the_stored_energies_refuse_the_share_that_they_say(monkeypatch, count, within):
    found, card, logits = measured(monkeypatch, count)
    card = replace(card, rejection=found.energies)
    for share in (0.01, 0.05, 0.2):
        assert np.mean(~Rejection(card, share).accepts(logits)) == pytest.approx(share, abs=max(within, 3 / count))
    assert found.refused["0.01"] == 1.0
    assert str(found) == "refuses 100% of generated images without the classes, and 1 % of its own"


def test_energies_that_say_nothing_are_not_stored(monkeypatch):
    found, *_ = measured(monkeypatch, 400, grey=False)
    assert found.energies == {}
    assert "everything gets a label" in str(found)
