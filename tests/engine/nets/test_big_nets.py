"""The published nets: known numbers of parameters, the same logits as in PyTorch, S1's spellings, and the cat."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import engine
from engine import nets
from engine.graph import Array, ModelError
from engine.model import Model
from engine.runtime.convert import save

IMAGENET = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "imagenet"
needs_imagenet = pytest.mark.skipif(not IMAGENET.exists(), reason="the real ResNet-50 and its photos are not there")

# As torchvision and the papers count them: without running statistics.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large": 5_483_032,
    "squeezenet1_1": 1_235_496,
    "vgg11": 132_863_336,
    "vgg16": 138_357_544,
}
HEAVY = ("resnet34", "resnet50", "resnet101", "vgg11", "vgg16")
ALL = [
    pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ())
    for name in (*PARAMETERS, "mobilenet_v3_1d_small", "mobilenet_v3_1d_large")
]


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters_is_the_published_one(name: str) -> None:
    shapes = nets.build(name).parameters
    assert sum(int(np.prod(shape)) for key, shape in shapes.items() if "running" not in key) == PARAMETERS[name]


@pytest.mark.parametrize("name", ALL)
def test_state_dict_under_published_names_gives_torchs_logits(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    from tests.engine import torch_nets

    net = torch_nets.seeded(torch_nets.NETS[name]())
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = engine.load(tmp_path / "net.pth")
    assert model.card.net == name
    x = torch.randn((2, *model.card.input_shape), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = net(x).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(model.run(x.numpy()), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("length", "channels", "classes"), [(224, 112, 5), (16, 3, 2)])
def test_nets_in_one_dimension_fit_channels_classes_and_length(
    tmp_path: Path, length: int, channels: int, classes: int
) -> None:
    torch = pytest.importorskip("torch")
    from tests.engine import torch_nets

    # At 16 the features themselves come to length 1, where S1 leaves out the norms.
    net = torch_nets.seeded(torch_nets.MobileNetV31d(torch_nets.V3_SMALL_1D, 576, 1024, "fearures", channels, classes))
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    graph, card = nets.fit("mobilenet_v3_1d_small", arrays, (channels, length))
    assert card.input_shape == (channels, length)
    x = torch.randn((3, channels, length), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = net(x).numpy()
    found = Model(card, graph).run(x.numpy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(ModelError, match=r"found \(1, .*\)"):
        Model(card, graph).plan((1, channels, length + 1))


def test_a_net_with_another_number_of_classes_is_recognised() -> None:
    arrays = {key: np.broadcast_to(np.float32(0.5), shape) for key, shape in nets.build("resnet18").parameters.items()}
    arrays |= {"fc.weight": np.ones((7, 512), np.float32), "fc.bias": np.ones(7, np.float32)}
    assert nets.recognise(arrays) == "resnet18"
    graph, card = nets.fit("resnet18", arrays)
    assert graph.outputs[0].shape == (0, 7)
    assert card == nets.default_card("resnet18")


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "mobilenet_v3_1d_small"])
def test_what_onnxruntime_makes_of_our_onnx_file_is_the_same(tmp_path: Path, name: str) -> None:
    runtime, torch = pytest.importorskip("onnxruntime"), pytest.importorskip("torch")
    from tests.engine import torch_nets

    state = torch_nets.seeded(torch_nets.NETS[name]()).state_dict()
    model = Model(nets.default_card(name), nets.fit(name, {key: t.numpy() for key, t in state.items()})[0])
    save(model, tmp_path / "net.onnx")
    x = torch.randn((1, *model.card.input_shape), generator=torch.Generator().manual_seed(3)).numpy()
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input": x})
    for each in (model, engine.load(tmp_path / "net.onnx")):
        np.testing.assert_allclose(each.run(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@cache
def real_resnet50() -> Model:
    return engine.load(IMAGENET / "resnet50.npz")


def photo(name: str, model: Model) -> Array:
    """The middle of the photo as torchvision prepares it: shorter side to 256, 224 x 224 of it, mean and std."""
    image = cv2.cvtColor(cv2.imread(str(IMAGENET / "photos" / name)), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    scale = 256 / min(height, width)
    image = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    numbers = image[top : top + 224, left : left + 224].astype(np.float32) / 255
    numbers = (numbers - np.float32(model.card.mean)) / np.float32(model.card.std)
    return np.ascontiguousarray(numbers.transpose(2, 0, 1)[None])


@needs_imagenet
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cat.jpg", ("cat", "tabby")),
        ("cat_720p.jpg", ("cat", "tabby", "mau")),
        ("parrot.jpg", ("macaw", "lorikeet", "parrot")),
    ],
)
def test_the_real_resnet50_sees_what_is_on_the_photo(name: str, words: tuple[str, ...]) -> None:
    model = real_resnet50()
    assert model.card == nets.default_card("resnet50")
    labels = json.loads((IMAGENET / "labels.json").read_text())
    best = labels[int(np.argmax(model.run(photo(name, model))))]
    assert any(word in best.lower() for word in words), best


@needs_imagenet
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_format_gives_the_real_resnet50_the_same_logits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = real_resnet50()
    x = photo("cat.jpg", model)
    expected = np.asarray(model.run(x))
    arrays: dict[str, Any] = dict(model.graph.initializers)
    torch.save({"state_dict": {f"module.{k}": torch.tensor(v) for k, v in arrays.items()}}, tmp_path / "net.pth")
    save(model, tmp_path / "dump")
    save(model, tmp_path / "net.safetensors")
    save(model, tmp_path / "net.onnx")
    for name in ("net.pth", "dump", "net.safetensors", "net.onnx"):
        found = engine.load(tmp_path / name).run(x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


IMAGES = sorted(IMAGENET.glob("samples/*")) + sorted(IMAGENET.glob("photos/*"))


@needs_imagenet
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("peer", ["torch", "onnxruntime"])
def test_the_real_resnet50_agrees_with_its_peer_on_every_image(tmp_path: Path, peer: str) -> None:
    runtime = pytest.importorskip(peer)
    model = real_resnet50()
    if peer == "torch":
        from tests.engine import torch_nets

        net = torch_nets.NETS["resnet50"]().eval()
        state = {name: runtime.tensor(array) for name, array in model.graph.initializers.items()}
        net.load_state_dict(state, strict=False)

        def expect(x: Array) -> Array:
            with runtime.no_grad():
                logits: Array = net(runtime.from_numpy(x)).numpy()
            return logits

    else:
        save(model, tmp_path / "net.onnx")
        session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])

        def expect(x: Array) -> Array:
            return np.asarray(session.run(None, {"input": x})[0])

    worst, right = 0.0, 0
    for image in IMAGES:
        x = photo(f"../{image.parent.name}/{image.name}", model)
        expected, found = expect(x), np.asarray(model.run(x))
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
        assert found.argmax() == expected.argmax(), image.name
        right += image.name[:3].isdecimal() and int(found.argmax()) == int(image.name[:3])
    print(f"{peer}: {len(IMAGES)} images, largest difference {worst:.1e} of the largest logit, {right} of 50 right")
    assert worst < 1e-4
    assert right >= 30
