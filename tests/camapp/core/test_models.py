import json

import numpy as np
import pytest

from camapp.core.models import load_model, model_path, read_labels, shipped_models
from camapp.core.settings import load_settings
from engine import nets
from engine.model import ModelError


def load(**options):
    return load_model(load_settings(options, environment={}))


def test_shipped_names_and_paths_are_found():
    assert model_path("mnist").name == "mnist.npz"
    assert model_path(str(model_path("mnist"))) == model_path("mnist")
    with pytest.raises(ModelError, match=r"no model 'absent'.*mnist"):
        model_path("absent")


def test_every_shipped_file_has_a_card_with_accuracy_and_licence():
    cards = [card for _, card in shipped_models()]
    assert {card.net for card in cards} >= {"mnist", "cifar10"}
    assert all(card.accuracy and card.licence for card in cards)


def test_one_value_of_mean_or_std_applies_to_every_channel():
    card = load(model="cifar10", mean="0.4", std="0.2").card
    assert card.mean == (0.4, 0.4, 0.4)
    assert card.std == (0.2, 0.2, 0.2)
    with pytest.raises(ModelError, match="--std has 2 values, the model has 3"):
        load(model="cifar10", std="1,1")


def test_labels_are_read_from_text_lines_or_json(tmp_path):
    assert read_labels("cat, dog") == ("cat", "dog")
    (tmp_path / "a.txt").write_text("cat\n\ndog \n")
    assert read_labels(str(tmp_path / "a.txt")) == ("cat", "dog")
    (tmp_path / "a.json").write_text(json.dumps(["Katze", "Hünd"]))
    assert read_labels(str(tmp_path / "a.json")) == ("Katze", "Hünd")


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", b"{}"), ("b.json", b"["), ("c.txt", b""), ("d.txt", b"\xff\xfe")]
)
def test_an_invalid_label_file_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        read_labels(str(tmp_path / name))


def test_a_missing_label_file_is_named():
    with pytest.raises(ModelError, match=r"no label file 'absent\.txt'"):
        read_labels("absent.txt")


def test_a_net_whose_input_is_not_an_image_is_refused_in_one_line(tmp_path):
    shapes = nets.build("mobilenet_v3_1d_small").parameters
    np.savez(tmp_path / "signals.npz", **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    with pytest.raises(ModelError, match=r"signals\.npz: net 'mobilenet_v3_1d_small' takes \(3, 224\), not images"):
        load(model=str(tmp_path / "signals.npz"))
