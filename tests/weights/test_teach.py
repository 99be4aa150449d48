"""Teaching a net new classes in NumPy: from a folder of images to a model that the application loads."""

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from camapp.core.models import load_file
from camapp.tasks.rejection import Rejection
from engine import nets
from engine.model import Model, load
from engine.runtime.convert import convert
from tests.weights.test_command_line import ROOT, weights, without
from weights import WeightsError
from weights.evaluate import normalised
from weights.features import backbone_of, features
from weights.outliers import outliers
from weights.sheet import write_sheet
from weights.softmax import Layer
from weights.teach import Report, backbone_named, some_images, teach, write

COLOURS = {"red": (30, 30, 220), "green": (40, 200, 50), "Blue thing": (210, 60, 30)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Discs of three colours, a class each."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, colour in COLOURS.items():
        (folder / label).mkdir()
        for index in range(20):
            image = np.full((48, 64, 3), 60 + 5 * index, np.uint8)
            cv2.circle(image, (24 + index, 24), 12, colour, -1)
            cv2.imwrite(str(folder / label / f"{index}.png"), image)
    return folder


@pytest.fixture(scope="module")
def taught(pictures):
    steps, counted = [], []
    report = Report(images=counted.append, done=counted.append, step=steps.append, warn=counted.append)
    return teach(pictures, backbone_named("cifar10"), "cifar10", report, workers=2), steps, counted


def test_new_classes_are_learnt_on_the_features_of_a_net(taught, pictures):
    found, steps, counted = taught
    assert counted[0] == 60
    assert sum(counted[1:]) == 60
    assert found.result.images == 12
    assert found.result.accuracy > 0.8
    assert steps[0].is_best
    card = found.model.card
    assert card.labels == ("Blue thing", "green", "red")
    assert card.accuracy == {"validation, last 12 of 60 images": round(found.result.accuracy, 4)}
    assert "--from cifar10: a new last layer" in card.recipe
    assert card.licence == "that of your images; the net's own weights: MIT"


def test_what_is_none_of_the_taught_classes_is_refused(taught, pictures):
    model = taught[0].model
    shown, _ = some_images(pictures, model.card, 60)
    made = outliers(shown, 100, seed=9)
    known, unknown = (
        Rejection(model.card, 0.05).accepts(np.array(model.run(normalised(images, model.card))))
        for images in (shown.images, made)
    )
    assert str(taught[0].rejection).startswith("refuses")
    assert known.mean() > 0.8
    assert unknown.mean() < 0.6


def test_the_written_model_is_an_ordinary_bundle(taught, tmp_path):
    found = taught[0]
    write(found, tmp_path / "my.npz")
    model = load_file(tmp_path / "my.npz")
    assert replace(model.card, sha256="") == replace(found.model.card, sha256="")
    start = load(ROOT / "weights" / "cifar10.npz").graph.initializers
    kept = {name for name in start if not name.startswith("fc2.")}
    assert all(np.array_equal(start[name], model.graph.initializers[name]) for name in kept)
    assert model.graph.initializers["fc2.weight"].shape == (3, 500)


@pytest.mark.parametrize(
    "name", ["objects", "mobilenet_v3_small", "mobilenet_v2", pytest.param("resnet18", marks=pytest.mark.slow)]
)
def test_a_net_is_cut_before_its_last_layer(name):
    graph = nets.build(name)
    head = nets.REGISTRY[name].head
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(0, 0.01, shape).astype(np.float32) for key, shape in graph.parameters.items()}
    arrays.update({key: np.abs(array) + 1 for key, array in arrays.items() if key.endswith("running_var")})
    backbone = backbone_of(Model(nets.default_card(name), graph.bind(arrays)))
    assert backbone.width == arrays[head].shape[1]
    layer = Layer(arrays[head][:5], arrays[head.replace("weight", "bias")][:5])
    changed = backbone.with_layer(layer, labels=tuple("abcde"))
    inputs = rng.normal(size=(1, *changed.card.input_shape)).astype(np.float32)
    np.testing.assert_allclose(changed.run(inputs), layer(backbone.model.run(inputs)), rtol=1e-3, atol=1e-4)


def test_an_onnx_file_is_taught_and_stays_onnx(pictures, tmp_path):
    convert(ROOT / "weights" / "cifar10.npz", tmp_path / "start.onnx")
    report = Report(warn=lambda text: None)
    found = teach(pictures, backbone_named(str(tmp_path / "start.onnx")), "start.onnx", report, workers=1)
    write(found, tmp_path / "my.onnx")
    assert load_file(tmp_path / "my.onnx").card.labels == ("Blue thing", "green", "red")
    assert found.result.accuracy > 0.8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("digits", "exists for its own classes only: choose a net such as mobilenet_v3_small"),
        ("track", "has no fully connected last layer"),
    ],
)
def test_nets_without_a_last_layer_to_replace_are_refused(name, reason):
    with pytest.raises(WeightsError, match=reason):
        backbone_named(name)


def test_unreadable_files_are_left_out_and_named(pictures, tmp_path):
    names = [str(pictures / "red" / "0.png"), str(tmp_path / "absent.png"), str(tmp_path / "bad.png")]
    (tmp_path / "bad.png").write_bytes(b"no image")
    found, bad = features(backbone_named("cifar10"), names, workers=1)
    assert found.shape == (3, 500)
    assert bad.keys() == {1, 2}
    assert bad[1] == "No such file or directory"
    assert np.abs(found[0]).sum() > 0
    assert not found[1:].any()


def test_features_do_not_depend_on_the_number_of_workers(pictures):
    names = [str(path) for path in sorted((pictures / "green").iterdir())]
    backbone = backbone_named("cifar10")
    one, two = (features(backbone, names, workers=count)[0] for count in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_too_few_images_are_refused(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(WeightsError, match="at least two classes with two images each"):
        teach(tmp_path, backbone_named("cifar10"), "cifar10", Report(warn=lambda text: None))


def test_a_sheet_shows_each_class(pictures, tmp_path):
    card = load(ROOT / "weights" / "cifar10.npz").card
    images, classes = some_images(pictures, card)
    assert set(images.labels.tolist()) == {0, 1, 2}
    write_sheet(tmp_path / "new" / "sheet.png", images, classes)
    sheet = cv2.imread(str(tmp_path / "new" / "sheet.png"))
    assert all((sheet == colour).all(axis=2).any() for colour in COLOURS.values())
    with pytest.raises(WeightsError, match="cannot write"):
        write_sheet(tmp_path / "new" / "sheet.png" / "x.png", images, classes)


@pytest.mark.slow
def test_the_command_needs_no_pytorch_and_its_model_runs(pictures, tmp_path):
    out, sheet = tmp_path / "my.npz", tmp_path / "sheet.png"
    options = ("--from", "cifar10", "--out", out, "--workers", 1, "--show-batch", sheet)
    done = weights("train", "folder", pictures, *options, **without("torch", tmp_path))
    assert done.returncode == 0, done.stderr
    assert "validation loss fell, saved" in done.stdout
    assert f"camapp --model {out}" in done.stdout.replace("\n", "")
    assert sheet.exists()
    seen = subprocess.run(
        [sys.executable, "-m", "camapp", "classify", str(pictures / "red"), "--model", str(out), "--workers", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert sum("red" in line.rpartition(":")[2] for line in seen.stdout.splitlines()) >= 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist", "--from", "cifar10"], "error: --from belongs to 'train folder DATA'"),
        (["folder", "x", "--from", "cifar10", "--lr", 0.1], "error: learning_rate: of no use with --from"),
        (["folder", "x", "--from", "absent"], "error: no model 'absent'"),
        (
            ["folder", "x", "--from", "resnet18"],
            "error: model 'resnet18' is not on this machine yet: '",
        ),
        (
            ["folder", "x", "--from", "cifar10", "--out", "x.onnx"],
            "error: --out x.onnx: a model file's name ends in .npz",
        ),
    ],
)
def test_mistakes_print_one_line(arguments, message, tmp_path):
    done = weights("train", *arguments, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 78
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
