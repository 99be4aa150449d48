import logging

import numpy as np
import pytest

from camapp.core.models import load_model, model_path, read_labels, shipped_models
from camapp.core.settings import load_settings
from engine import nets
from engine.formats.onnx import serialise_onnx
from engine.graph import Graph, Node, Value
from engine.model import ModelCard, ModelError


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


def test_unusual_statistics_of_a_known_net_are_warned_of_once(caplog):
    for _ in range(2):
        load(model="mnist", mean="0.5", std="0.5")
    load(model="cifar10", mean="0.5", std="0.5")
    lines = [record.message for record in caplog.records if "usually trained" in record.message]
    assert [line.split(" is not")[0] for line in lines] == ["--mean", "--std"]
    assert "'mnist' is usually trained with (0)" in lines[0]


def test_labels_are_read_from_text():
    assert read_labels("cat, dog") == ("cat", "dog")


def save_net(path, channels_last=False, side=8):
    """An ONNX file without a card: the means of the three channels, as TensorFlow exports one or as PyTorch does."""
    axes = (1, 2) if channels_last else (2, 3)
    shape = (1, side, side, 3) if channels_last else (1, 3, side, side)
    node = Node("ReduceMean", ("image",), ("means",), {"axes": axes, "keepdims": 0}, "mean")
    graph = Graph("means", (Value("image", shape),), (Value("means", (1, 3)),), (node,))
    colour = "" if channels_last else "RGB"
    card = ModelCard("means", "other" if channels_last else "classify", shape[1:], colour=colour)
    data = serialise_onnx(graph, card)
    path.write_bytes(data.replace(b"card", b"kard"))  # then the file has none


def test_a_net_with_the_channels_last_is_run_as_any_other(tmp_path):
    for name in ("first", "last"):
        save_net(tmp_path / f"{name}.onnx", name == "last")
    first, last = (load(model=str(tmp_path / f"{name}.onnx"), labels="r,g,b") for name in ("first", "last"))
    assert last.card.input_shape == first.card.input_shape == (3, 8, 8)
    assert (last.card.colour, last.card.task) == ("RGB", "classify")
    image = np.random.default_rng(1).random((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(last.run(image), first.run(image), rtol=1e-6)
    np.testing.assert_allclose(np.array(last.plan().run(image)), image.mean(axis=(2, 3)), rtol=1e-5)


def test_a_file_without_a_card_says_once_what_it_goes_by(tmp_path, caplog):
    save_net(tmp_path / "net.onnx")
    caplog.set_level(logging.INFO)
    for _ in range(2):
        load(model=str(tmp_path / "net.onnx"), labels="red,green,blue", mean="0.5")
    (line,) = [record.message for record in caplog.records if "no model card" in record.message]
    assert "with RGB pixels from 0 to 1, less the mean 0.5,0.5,0.5, divided by the deviation 1,1,1" in line
    assert "knows three words: red, green, blue" in line


def test_a_shipped_model_says_nothing(caplog):
    caplog.set_level(logging.INFO)
    load(model="cifar10")
    assert "no model card" not in caplog.text


def test_a_missing_label_file_is_named():
    with pytest.raises(ModelError, match=r"no label file 'absent\.txt'"):
        read_labels("absent.txt")


def test_a_net_whose_input_is_not_an_image_is_refused_in_one_line(tmp_path):
    shapes = nets.build("mobilenet_v3_1d_small").parameters
    np.savez(tmp_path / "signals.npz", **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    with pytest.raises(ModelError, match=r"signals\.npz: net 'mobilenet_v3_1d_small' takes \(3, 224\), not images"):
        load(model=str(tmp_path / "signals.npz"))


@pytest.fixture
def foreign(tmp_path):
    """Return a function that writes a small ONNX file with metadata of its own, and without our card."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def write(nodes, outputs, size=(32, 48), **metadata):
        rng = np.random.default_rng(0)
        weights = {"w": (6, 3, 8, 8), "g": (4, 6)}
        arrays = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()]
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        model = helper.make_model(
            helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "g", [image], made, arrays),
            opset_imports=[helper.make_opsetid("", 17)],
        )
        helper.set_model_props(model, metadata)
        onnx.save(model, str(tmp_path / "a.onnx"))
        return str(tmp_path / "a.onnx")

    return write


CONV = ("Conv", ["x", "w"], ["c"], {"strides": [8, 8]})
ROW = [
    CONV,
    ("GlobalAveragePool", ["c"], ["p"], {}),
    ("Flatten", ["p"], ["f"], {}),
    ("Gemm", ["f", "g"], ["l"], {"transB": 1}),
    ("Softmax", ["l"], ["y"], {}),
]
MAPS = [CONV, ("Sigmoid", ["c"], ["s"], {}), ("Concat", ["c", "s"], ["y"], {"axis": 1}), ("Identity", ["s"], ["z"], {})]


def test_a_file_without_a_card_states_labels_task_and_size_in_its_metadata(foreign):
    names = "{0: 'ant', 1: 'bee', 2: 'cat', 3: 'dog'}"
    card = load(model=foreign(ROW, {"y": [1, 4]}, task="classify", names=names)).card
    assert (card.task, card.labels) == ("classify", ("ant", "bee", "cat", "dog"))
    assert [(output.shape, output.operators) for output in card.outputs] == [((4,), ("Softmax",))]
    card = load(model=foreign(MAPS, {"y": [1, 12, 4, 6]}, ["h", "w"], imgsz="[32, 48]", task="pose", names=names)).card
    assert (card.task, card.input_shape, card.metadata["task"]) == ("detect", (3, 32, 48), "pose")
    assert [(output.shape, output.operators) for output in card.outputs] == [((12, 4, 6), ("Conv", "Sigmoid"))]


@pytest.mark.parametrize(
    "metadata", [{}, {"names": "[", "imgsz": "640", "task": "guess"}, {"names": "5", "imgsz": "(1,)"}]
)
def test_without_useful_metadata_the_form_of_the_outputs_tells_detectors_from_classifiers(foreign, metadata):
    assert load(model=foreign(ROW, {"y": [1, 4]}, **metadata)).card.task == "classify"
    assert load(model=foreign(MAPS, {"y": None, "z": None}, **metadata)).card.task == "detect"
    path = foreign(MAPS, {"y": [1, 12, 4, 6], "z": [1, 6, 4, 6]}, **metadata)
    card = load(model=path).card
    assert (card.task, card.labels, [output.shape for output in card.outputs]) == (
        "detect",
        (),
        [(12, 4, 6), (6, 4, 6)],
    )
    assert load(model=path, task="classify").card.task == "classify"


def test_settings_correct_colour_anchors_and_head_of_a_card(foreign):
    path = foreign(MAPS, {"y": [1, 12, 4, 6]})
    card = load(model=path, colour="BGR", anchors="1,2,3,4", task="detect").card
    assert (card.colour, card.anchors) == ("BGR", (1, 2, 3, 4))
    assert load(model=foreign(ROW, {"y": [1, 4]}), head="yolox").card.task == "detect"
    with pytest.raises(ModelError, match="--colour is for three input channels, the model has 1"):
        load(model="mnist", colour="BGR")
