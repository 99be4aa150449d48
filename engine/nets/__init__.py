"""The nets this engine knows by name: a builder and the card of its published form, a line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.card import ModelCard
from engine.graph import Array, Graph, ModelError
from engine.nets.cifar import cifar10, cifar_small
from engine.nets.lenet import lenet, mnist
from engine.nets.track import track

_DIGITS = tuple("0123456789")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR_SMALL = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Net:
    """A builder of the graph, and the card of a model that says nothing else."""

    build: Callable[[], Graph]
    card: ModelCard


def _digits(name: str, side: int) -> ModelCard:
    return ModelCard(name, task="digits", input_shape=(1, side, side), colour="GRAY", labels=_DIGITS)


def _cifar(name: str, labels: tuple[str, ...]) -> ModelCard:
    half = (0.5, 0.5, 0.5)
    return ModelCard(name, input_shape=(3, 32, 32), mean=half, std=half, colour="RGB", labels=labels)


_TRACK = ModelCard("track", task="track", input_shape=(3, 120, 160), mean=(0.45,) * 3, std=(0.25,) * 3)

REGISTRY: Mapping[str, Net] = {
    "mnist": Net(mnist, _digits("mnist", 28)),
    "lenet": Net(lenet, _digits("lenet", 32)),
    "cifar_small": Net(cifar_small, _cifar("cifar_small", _CIFAR_SMALL)),
    "cifar10": Net(cifar10, _cifar("cifar10", _CIFAR)),
    "track": Net(track, _TRACK),
}


def build(name: str) -> Graph:
    """The net of that name, without values (see `Graph.bind`).

    Raises:
        ModelError: no such net.
    """
    return _find(name).build()


def default_card(name: str) -> ModelCard:
    """The card of the net's published form.

    Raises:
        ModelError: no such net.
    """
    return _find(name).card


def recognise(arrays: Mapping[str, Array]) -> str | None:
    """Name of the net whose parameters have just these names and shapes; None if there is none."""
    found = {name: array.shape for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    return next((name for name, net in REGISTRY.items() if net.build().parameters == found), None)


def _find(name: str) -> Net:
    if name not in REGISTRY:
        raise ModelError(f"unknown net '{name}'; known are {', '.join(REGISTRY)}")
    return REGISTRY[name]
