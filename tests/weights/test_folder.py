import cv2
import numpy as np
import pytest

from camapp.capture.images import read_image
from camapp.core.image_ops import Preprocessor
from engine import nets
from weights import WeightsError
from weights.evaluate import normalised
from weights.folder import FEW, RECIPE, load_folder

CARD = nets.default_card("cifar10")


def fill(directory, **counts):
    for label, count in counts.items():
        (directory / label).mkdir(parents=True)
        for index in range(count):
            image = np.random.default_rng(index).integers(0, 256, (50, 40, 3)).astype(np.uint8)
            cv2.imwrite(str(directory / label / f"{index}.png"), image)
    return directory


def load(directory):
    warnings = []
    return load_folder(directory, CARD, warn=warnings.append), warnings


def test_the_last_fifth_of_each_class_is_the_validation_split(tmp_path):
    dataset, warnings = load(fill(tmp_path, cup=FEW, pen=30))
    assert dataset.classes == ("cup", "pen")
    assert np.bincount(dataset.train.labels).tolist() == [16, 24]
    assert np.bincount(dataset.validation.labels).tolist() == [4, 6]
    assert dataset.train.images.shape == (40, 3, 32, 32)
    assert warnings == []
    assert load(tmp_path)[0].sha256 == dataset.sha256


def test_images_are_preprocessed_as_in_the_application(tmp_path):
    dataset, _ = load(fill(tmp_path, cup=FEW, pen=FEW))
    expected = np.zeros(CARD.input_shape, np.float32)
    Preprocessor(CARD)(read_image(tmp_path / "cup" / "0.png"), expected)
    np.testing.assert_allclose(normalised(dataset.train.images[:1], CARD)[0], expected, atol=1e-5)


def test_likely_problems_give_warnings(tmp_path):
    fill(tmp_path, Cup=10, cup=100, pen=30)
    (tmp_path / "loose.png").write_bytes(b"")
    (tmp_path / "pen" / "bad.png").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    dataset, warnings = load(tmp_path)
    assert dataset.classes == ("Cup", "cup", "pen")
    text = "\n".join(warnings)
    assert "1 files lie in" in text
    assert "class 'cup' differs from another only in case" in text
    assert "bad.png: the file is empty" in text
    assert "few images (Cup: 10)" in text
    assert "unbalanced: 100 of 'cup', but 10 of 'Cup'" in text


@pytest.mark.parametrize("counts", [{}, {"cup": 50}, {"cup": 50, "pen": 1}, {"cup": 5, "pen": 5, "none": 0}])
def test_too_few_classes_or_images_raise_an_error(tmp_path, counts):
    with pytest.raises(WeightsError, match="at least two classes with two images each are needed"):
        load(fill(tmp_path, **counts))


def test_a_missing_folder_raises_an_error(tmp_path):
    with pytest.raises(WeightsError, match="no folder"):
        load(tmp_path / "absent")


@pytest.mark.slow
def test_only_the_new_layer_is_trained_in_the_first_epochs(tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")
    from dataclasses import replace

    from camapp.core.models import model_path
    from engine.model import load as load_model
    from weights.train import train

    dataset, _ = load(fill(tmp_path, cup=FEW, pen=FEW))
    start = load_model(model_path("cifar10")).graph.initializers
    frozen = train(replace(RECIPE, epochs=2, frozen=2), dataset).arrays
    assert frozen["fc2.weight"].shape == (2, 500)
    assert all(np.array_equal(frozen[name], start[name]) for name in frozen if not name.startswith("fc2."))
    free = train(replace(RECIPE, epochs=2, frozen=0), dataset).arrays
    assert not np.array_equal(free["conv1.weight"], start["conv1.weight"])
