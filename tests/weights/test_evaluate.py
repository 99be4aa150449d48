import numpy as np
import pytest

from engine import nets
from engine.model import Model
from engine.model_card import ModelCard
from weights import WeightsError
from weights.datasets import Images
from weights.evaluate import Evaluation, evaluate, normalised
from weights.signals import signals


def random_model(name="mnist"):
    rng = np.random.default_rng(1)
    graph = nets.build(name)
    arrays = {key: rng.normal(0, 0.1, shape).astype(np.float32) for key, shape in graph.parameters.items()}
    arrays.update({key: np.ones_like(array) for key, array in arrays.items() if key.endswith("running_var")})
    return Model(nets.default_card(name), graph.bind(arrays))


def random_images(count, shape=(1, 28, 28)):
    rng = np.random.default_rng(2)
    return Images(rng.integers(0, 256, (count, *shape)).astype(np.uint8), rng.integers(0, 10, count).astype(np.uint8))


@pytest.mark.parametrize("count", [1, 64, 65, 200])
def test_every_image_is_counted_once_for_any_batch(count):
    model, images = random_model(), random_images(count)
    predicted = model.run(normalised(images.images, model.card)).argmax(axis=1)
    expected = np.zeros((10, 10), int)
    for truth, label in zip(images.labels, predicted, strict=True):
        expected[truth, label] += 1
    found = evaluate(model, images, workers=2)
    assert np.array_equal(found.confusion, expected)
    assert found.images == count
    assert found.images_per_s > 0


def test_the_accuracy_is_computed_overall_and_per_class():
    confusion = np.zeros((3, 3), np.int64)
    confusion[0] = 3, 1, 0
    confusion[1] = 0, 6, 0
    result = Evaluation(confusion, 2.0)
    assert result.accuracy == 0.9
    assert result.images_per_s == 5
    np.testing.assert_array_equal(result.per_class, [0.75, 1.0, np.nan])


def test_images_are_normalised_by_the_card():
    card = nets.default_card("cifar10")
    images = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1)
    found = normalised(images, card)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), [-1, -0.6, 1], atol=1e-6)


def test_signals_are_not_scaled():
    card = ModelCard("mobilenet_v3_1d_small", input_shape=(2, 3), mean=(1, 0), std=(2, 1), colour="")
    found = normalised(np.array([[[1, 3, 5], [7, 8, 9]]], np.float32), card)
    np.testing.assert_array_equal(found, [[[0, 1, 2], [7, 8, 9]]])


def test_signals_can_be_evaluated():
    model = random_model("mobilenet_v3_1d_small")
    inputs, labels = signals(70)
    predicted = model.run(inputs).argmax(axis=1)
    assert evaluate(model, Images(inputs, labels), workers=1).accuracy == np.mean(predicted == labels)


def test_digits_are_padded_to_a_larger_net():
    assert evaluate(random_model("lenet"), random_images(3)).images == 3


def test_data_of_the_wrong_kind_raise_an_error():
    with pytest.raises(WeightsError, match="do not fit a net that takes"):
        evaluate(random_model(), random_images(3, (3, 32, 32)))


def test_labels_outside_the_models_classes_raise_an_error():
    images = random_images(3)
    images.labels[1] = 12
    with pytest.raises(WeightsError, match="label 12, the model only 10 classes"):
        evaluate(random_model(), images)
