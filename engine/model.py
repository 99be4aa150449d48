"""load() and Model: a graph with its values, and the card that says what it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engine import nets
from engine.card import ModelCard as ModelCard
from engine.formats import npz
from engine.graph import Array, Graph, Shape
from engine.graph import ModelError as ModelError
from engine.graph import UnsupportedOperator as UnsupportedOperator
from engine.passes import optimise
from engine.plan import Plan
from engine.planner import make_plan

_FORMATS: Mapping[str, Callable[[Path], tuple[dict[str, Array], ModelCard | None]]] = {".npz": npz.read_bundle}
_LABELLED_TASKS = ("classify", "digits")


@dataclass(frozen=True)
class Model:
    """A net ready to be planned or run.

    Attributes:
        card: what the input should be and what the outputs mean.
        graph: with its initializers bound.

    Raises:
        ModelError: the card does not fit the graph (input shape, number of labels).
    """

    card: ModelCard
    graph: Graph
    _plans: dict[tuple[Shape, ...], Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        expected = self.graph.inputs[0].shape[1:]
        given = self.card.input_shape
        if len(expected) != len(given) or any(
            want not in (0, have) for want, have in zip(expected, given, strict=True)
        ):
            raise ModelError(f"net '{self.graph.name}' takes {expected}, but its card says {given}")
        outputs = self.graph.outputs[0].shape[-1]
        if self.card.task in _LABELLED_TASKS and self.card.labels and len(self.card.labels) != outputs:
            raise ModelError(
                f"net '{self.graph.name}' has {outputs} outputs, but {len(self.card.labels)} labels are given"
            )

    def plan(self, *input_shapes: Shape) -> Plan:
        """A plan for inputs of just these shapes, (N, C, H, W) each; without any, one item of the card's shape.

        Raises:
            ModelError: shapes that the net does not take.
            UnsupportedOperator: a node that the engine does not run.
        """
        return make_plan(optimise(self.graph), input_shapes or ((1, *self.card.input_shape),))

    def run(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """Raw outputs for float32 inputs (N, C, H, W), new arrays; a tuple if the net has several.

        The plan of the last shapes is kept; use `plan` where speed or threads matter.
        """
        shapes = tuple(np.shape(array) for array in inputs)
        if shapes not in self._plans:
            plan = self.plan(*shapes)
            self._plans.clear()
            self._plans[shapes] = plan
        found = self._plans[shapes].run(*inputs)
        return tuple(array.copy() for array in found) if isinstance(found, tuple) else found.copy()


def load(path: str | Path, net: str | None = None) -> Model:
    """Read a model file: a bundle with its card, or bare arrays.

    Args:
        path: a `.npz` file.
        net: name of the net, for arrays without a card; without it they are recognised by names and shapes.

    Raises:
        ModelError: the file cannot be read, is damaged, or does not fit the net.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise ModelError(
            f"{path}: cannot load '{path.suffix or 'no suffix'}' files; supported is {', '.join(_FORMATS)}"
        )
    arrays, card = _FORMATS[path.suffix.lower()](path)
    try:
        return _assemble(arrays, card, net)
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error


def _assemble(arrays: Mapping[str, Array], card: ModelCard | None, net: str | None) -> Model:
    if card is not None and net not in (None, card.net):
        raise ModelError(f"its card says net '{card.net}', but net '{net}' was asked for")
    name = card.net if card else net or nets.recognise(arrays)
    if name is None:
        raise ModelError(
            f"its arrays fit no net by names and shapes; name it with --net, one of {', '.join(nets.REGISTRY)}"
        )
    graph = nets.fit(name, arrays)
    for key, array in graph.initializers.items():
        if not np.isfinite(array).all():
            raise ModelError(f"parameter '{key}' holds NaN or infinity; the file is damaged or its training diverged")
    return Model(card or nets.default_card(name), graph)


def described(model: Model, **changes: object) -> Model:
    """The same model with some of its card's fields changed, checked again.

    Raises:
        ModelError: a value that is not allowed, or does not fit the graph.
    """
    return Model(replace(model.card, **changes), model.graph)  # type: ignore[arg-type]
