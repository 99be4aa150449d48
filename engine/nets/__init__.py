"""Registers nets by name, one line each: a builder and the card of the published form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.graph import Array, Graph, ModelError, Shape, is_statistic
from engine.model_card import ModelCard
from engine.nets import mobilenet_v3, resnet, vgg
from engine.nets.cifar import cifar10, cifar_small
from engine.nets.digits import digits
from engine.nets.lenet import lenet, mnist
from engine.nets.mobilenet_v2 import mobilenet_v2
from engine.nets.objects import objects
from engine.nets.squeezenet import squeezenet1_1
from engine.nets.track import track

_DIGITS = tuple("0123456789")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR_SMALL = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Net:
    """Holds a builder of the graph, and the default card of its models.

    Attributes:
        build: with the arguments `classes` and `channels` if `head` and `stem` are given.
        card: of the published form.
        head: parameter whose first axis is the number of classes, in nets with a variable one.
        stem: parameter whose second axis is the number of input channels, in nets with a variable one.
        names: other spellings of the parts of parameters' names -> the engine's.
        shortcut: parameter that a variant of the net lacks, of which the shortcuts are padded.
        assumed: what lies between its layers, if other nets with something else have the same parameters.
    """

    build: Callable[..., Graph]
    card: ModelCard
    head: str = ""
    stem: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    shortcut: str = ""
    assumed: str = ""


def _digits(name: str, side: int) -> ModelCard:
    return ModelCard(name, task="digits", input_shape=(1, side, side), colour="GRAY", labels=_DIGITS)


def _cifar(name: str, labels: tuple[str, ...]) -> ModelCard:
    half = (0.5, 0.5, 0.5)
    return ModelCard(name, input_shape=(3, 32, 32), mean=half, std=half, colour="RGB", labels=labels)


def _on_cifar(build: Callable[..., Graph], head: str) -> Net:
    return Net(build, _cifar(build().name, _CIFAR), head=f"{head}.weight")


def _residual_on_cifar(build: Callable[..., Graph]) -> Net:
    return replace(_on_cifar(build, "fc"), names={"linear": "fc", "shortcut": "downsample"}, shortcut=_SHORTCUT)


_SHORTCUT = "layer2.0.downsample.0.weight"
_PLAIN = "ReLU and 2x2 max pooling"


def _imagenet(build: Callable[..., Graph], head: str) -> Net:
    return Net(build, ModelCard(build().name, input_shape=(3, 224, 224), **_OF_IMAGENET), f"{head}.weight")


_OF_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _in_one_dimension(build: Callable[..., Graph]) -> Net:
    card = ModelCard(build().name, input_shape=(3, 224), colour="")
    return Net(build, card, "classifier.1.conv.weight", "features.0.conv.weight", mobilenet_v3.NAMES_1D)


_TRACK = ModelCard("track", task="track", input_shape=(3, 160, 160), mean=(0.45,) * 3, std=(0.25,) * 3)

_ALL = (
    Net(mnist, _digits("mnist", 28), assumed=_PLAIN),
    Net(digits, _digits("digits", 28)),
    Net(lenet, _digits("lenet", 32), assumed=_PLAIN),
    Net(cifar_small, _cifar("cifar_small", _CIFAR_SMALL), assumed=_PLAIN),
    Net(cifar10, _cifar("cifar10", _CIFAR), head="fc2.weight", assumed=_PLAIN),
    _on_cifar(objects, "fc"),
    Net(track, _TRACK),
    *(_residual_on_cifar(build) for build in (resnet.resnet20, resnet.resnet32, resnet.resnet44, resnet.resnet56)),
    _imagenet(resnet.resnet18, "fc"),
    _imagenet(resnet.resnet34, "fc"),
    _imagenet(resnet.resnet50, "fc"),
    _imagenet(resnet.resnet101, "fc"),
    _imagenet(mobilenet_v2, "classifier.1"),
    _imagenet(mobilenet_v3.mobilenet_v3_small, "classifier.3"),
    _imagenet(mobilenet_v3.mobilenet_v3_large, "classifier.3"),
    _imagenet(squeezenet1_1, "classifier.1"),
    _imagenet(vgg.vgg11, "classifier.6"),
    _imagenet(vgg.vgg16, "classifier.6"),
    _in_one_dimension(mobilenet_v3.mobilenet_v3_1d_small),
    _in_one_dimension(mobilenet_v3.mobilenet_v3_1d_large),
)
REGISTRY: Mapping[str, Net] = {net.card.net: net for net in _ALL}


def build(name: str) -> Graph:
    """Return the net with this name as published, without values (see `Graph.bind`); raises ModelError if unknown."""
    return _find(name).build()


def default_card(name: str) -> ModelCard:
    """Return the card of the net's published form; raises ModelError if the net is unknown."""
    return _find(name).card


def fit(name: str, arrays: Mapping[str, Array], input_shape: Shape | None = None) -> tuple[Graph, ModelCard]:
    """Return the net with its values, built for the number of classes and channels in the arrays, and its card.

    Arrays have the engine's names, or the published ones. 1-D nets need one item's `input_shape`: it does not follow
    from them.

    Raises:
        ModelError: no such net, or arrays that are not its parameters.
    """
    net = _find(name)
    arrays = _spelt(net, arrays)
    graph = net.build(**_options(net, arrays, input_shape)).bind(arrays)
    shape = graph.inputs[0].shape[1:]
    changes = {} if shape == net.card.input_shape else {"input_shape": shape, "mean": (), "std": ()}
    if _is_padded(net, arrays):  # as they were published, with the statistics of ImageNet
        changes = dict(_OF_IMAGENET)
    return graph, replace(net.card, **changes)  # type: ignore[arg-type]


def recognise(arrays: Mapping[str, Array]) -> str | None:
    """Return the name of the net whose parameters have exactly these names and shapes; None if there is none."""
    for name, net in REGISTRY.items():
        spelt = _spelt(net, arrays)
        found = {key: array.shape for key, array in spelt.items() if not is_statistic(key)}
        if net.head and net.head not in found:
            continue
        if net.build(**_options(net, spelt, None)).parameters == found:
            return name
    return None


def _options(net: Net, arrays: Mapping[str, Array], input_shape: Shape | None) -> dict[str, int]:
    options = {}
    if net.head in arrays and arrays[net.head].ndim > 1:
        options["classes"] = arrays[net.head].shape[0]
    if net.stem in arrays and arrays[net.stem].ndim > 1:
        options["channels"] = arrays[net.stem].shape[1]
    if net.stem and input_shape is not None and len(input_shape) == 2:
        options["length"] = input_shape[1]
    if _is_padded(net, arrays):
        options["padded"] = 1
    return options


def _is_padded(net: Net, arrays: Mapping[str, Array]) -> bool:
    """Return whether the arrays are those of the net's variant with padded shortcuts."""
    return bool(net.shortcut) and net.shortcut not in arrays and "layer2.0.conv1.weight" in arrays


def assumed(name: str) -> str:
    """Return what is taken to lie between a net's layers when it is recognised by its parameters; '' if they tell."""
    return _find(name).assumed


def _spelt(net: Net, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays with the engine's spelling of their names."""
    return {".".join(net.names.get(part, part) for part in key.split(".")): array for key, array in arrays.items()}


def _find(name: str) -> Net:
    if name not in REGISTRY:
        raise ModelError(f"unknown net '{name}'; known are {', '.join(REGISTRY)}")
    return REGISTRY[name]
