"""Loads models: `load` reads a file, `Model` holds a graph with its values and its model card."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.attributes import weights_of
from engine.compiler.constant_folding import check_supported, fold, holds_for_any_batch
from engine.compiler.fusion import optimise
from engine.compiler.kernel_selection import KernelSelector, standard
from engine.compiler.planner import KernelChoice, PreparedGraph, choose, plan_prepared, prepare
from engine.compiler.uint8_input import INPUTS, takes_pixels
from engine.graph import Array, Graph, Shape, every_node
from engine.graph import ModelError as ModelError
from engine.graph import UnsupportedOperator as UnsupportedOperator
from engine.inputs import as_float32
from engine.lazy_weights import LazyWeights, release
from engine.model_card import ModelCard as ModelCard
from engine.plan import Plan

if TYPE_CHECKING:
    from engine.formats.content import Content
    from engine.interpreter import Interpreter

_LABELLED_TASKS = ("classify", "digits")


@dataclass(frozen=True)
class Model:
    """Holds a net that can be planned or run.

    Attributes:
        card: describes the input and the meaning of the outputs.
        graph: with its initializers bound; those of a file are released after a plan and reloaded on demand.
        prepared: kernels chosen and parameters packed by the last plan, for later ones; empty before the first.

    Raises:
        ModelError: the card does not fit the graph (input shape, number of labels).
    """

    card: ModelCard
    graph: Graph
    prepared: list[PreparedGraph] = field(default_factory=list, repr=False, compare=False)
    _plans: dict[tuple[Shape, ...], Plan] = field(default_factory=dict, init=False, repr=False, compare=False)
    _interpreters: list[Interpreter] = field(default_factory=list, init=False, repr=False, compare=False)
    _lengths: list[Model] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        expected = self.graph.inputs[0].shape[1:] if self.graph.inputs else ()
        given = self.card.input_shape
        if len(expected) != len(given) or any(
            want not in (0, have) for want, have in zip(expected, given, strict=True)
        ):
            raise ModelError(f"net '{self.graph.name}' takes {expected}, but its card has {given}")
        stated = self.graph.outputs[0].shape
        outputs = stated[-1] if stated else 0  # 0: the graph does not state it
        if outputs and self.card.task in _LABELLED_TASKS and self.card.labels and len(self.card.labels) != outputs:
            raise ModelError(
                f"net '{self.graph.name}' has {outputs} outputs, but {len(self.card.labels)} labels are given"
            )

    @property
    def default_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the inputs for one item: the first from the card, others from the graph (free: 1)."""
        shapes = [tuple(size or 1 for size in value.shape) for value in self.graph.inputs]
        if shapes and shapes[0]:
            shapes[0] = (shapes[0][0], *self.card.input_shape)
        return tuple(shapes)

    @property
    def only_batch(self) -> int | None:
        """The only batch size that the net can be planned for; None if any will do."""
        batches = self.prepare(self.default_shapes).batches
        return batches[0][0] if batches else None

    def plan(
        self,
        *input_shapes: Shape,
        selector: KernelSelector | None = None,
        input: str = "float32",
        choices: KernelSelector | None = None,
    ) -> Plan:
        """Return a plan for inputs of these shapes.

        Args:
            input_shapes: (N, C, H, W) for each input of the graph; without any, one item of the card's shape.
            selector: selects kernels from this plan on; None: as before, and at first `kernel_selection.standard()`.
            input: 'float32' for normalised float32 (N, C, H, W); or 'uint8_nhwc' for images (N, H, W, C), uint8, in
                the card's colour order: then the card's mean and std become part of the first layer, and the plan
                shares nothing with others.
            choices: an alias of `selector`.

        Raises:
            ModelError: shapes that the net does not take, or 'uint8_nhwc' for a net that takes no images.
            UnsupportedOperator: a node that the engine does not run.
            ValueError: another value of `input`.
        """
        shapes, selector = input_shapes or self.default_shapes, selector or choices
        if input not in INPUTS:
            raise ValueError(f"input='{input}' is not one of {', '.join(INPUTS)}")
        if input == "float32":
            return plan_prepared(self.prepare(shapes, selector), shapes, selector or standard())
        if self.prepared and self.prepared[0].final:
            raise ModelError(f"net '{self.graph.name}' was shared with its kernels selected, for input='float32'")
        graph = takes_pixels(fold(self.graph, shapes), self.card)
        prepared = prepare(optimise(graph), shapes, selector or standard())
        prepared.pixels = True
        del graph
        release(self.graph)
        return plan_prepared(prepared, shapes, selector or standard())

    def chosen(self, *input_shapes: Shape) -> list[KernelChoice]:
        """Return the kernel of each node in a plan for these shapes; arguments and errors as for `plan`.

        Raises:
            ModelError: a pinned kernel does not exist for any node that it was pinned for.
        """
        shapes = input_shapes or self.default_shapes
        prepared = self.prepare(shapes)
        assert prepared.graph is not None
        selector = standard()
        found = choose(prepared.graph, shapes, selector, prepared)
        for pin in selector.pins.items():
            if not any(pin in ((each.node.name, each.kernel), (each.node.op_type, each.kernel)) for each in found):
                raise ModelError(f"{'='.join(pin)}: no layer or operator '{pin[0]}' has this kernel in this plan")
        return found

    def prepare(self, shapes: Sequence[Shape], selector: KernelSelector | None = None) -> PreparedGraph:
        """Return what plans for these shapes share; that of earlier plans if their shapes and kernel selection match.

        Raises:
            ModelError, UnsupportedOperator: as `plan`.
        """
        before = self.prepared[0] if self.prepared else None
        if before is not None and selector is None and before.fits(shapes):
            return before
        if before is not None and before.final:
            raise ModelError(
                f"net '{self.graph.name}' was shared with its kernels selected, for items of {before.items}"
                f"{f' in batches of {before.batches}' if before.batches else ''}: it takes no others; "
                f"found {tuple(shapes)}"
            )
        folded = fold(self.graph, shapes)
        any_batch = holds_for_any_batch(self.graph, folded, shapes)
        prepared = prepare(optimise(folded), shapes, selector or standard())
        if any_batch:
            prepared.batches = ()
        self.prepared[:] = [prepared]
        del folded
        release(self.graph)
        return self.prepared[0]

    def release(self) -> None:
        """Release all that later plans would share (after sharing the model with workers); existing plans still run."""
        self._plans.clear()
        self._interpreters.clear()
        self._lengths.clear()
        if not (self.prepared and self.prepared[0].final):
            self.prepared.clear()
        release(self.graph)

    def run(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """Run the net and return its raw outputs as new arrays, a tuple if there are several.

        Inputs have the graph's shapes and data types; a net by name also takes float64 that float32 holds, and one for
        signals any length. The plan for the last shapes is kept; use `plan` if speed or threads matter.

        Raises:
            ModelError: shapes that the net does not take.
            UnsupportedOperator: a node that the engine does not run.
            ValueError: an array of another data type.
        """
        if not self.graph.parameters and not (
            self.prepared and self.prepared[0].final
        ):  # a graph from a file: it may take anything
            from engine.interpreter import Interpreter, run_empty  # lazy: workers, which only run plans, do not load it

            if not self._interpreters or not self._interpreters[0].fits(inputs):
                try:
                    self._interpreters[:] = [Interpreter(self.graph, inputs)]
                except ModelError:
                    if not all(array.shape[:1] == (0,) for array in inputs):
                        raise
                    made = run_empty(self.graph, inputs)
                    return made[0] if len(made) == 1 else made
            made = self._interpreters[0].run(inputs)
            return made[0] if len(made) == 1 else made
        inputs = tuple(as_float32(np.asarray(array)) for array in inputs)
        shapes = tuple(array.shape for array in inputs)
        if len(shapes) == 1 and (other := self._with_length(shapes[0][1:])) is not self:
            return other.run(*inputs)
        if shapes not in self._plans:
            plan = self.plan(*shapes)
            self._plans.clear()
            self._plans[shapes] = plan
        found = self._plans[shapes].run(*inputs)
        return tuple(array.copy() for array in found) if isinstance(found, tuple) else found.copy()

    def _with_length(self, item: Shape) -> Model:
        """Return this net for signals of another length, if it is one for signals; the last one is kept."""
        if self._lengths and self._lengths[0].card.input_shape == item:
            return self._lengths[0]
        own = self.card.input_shape
        if len(item) == len(own) == 2 and item != own and item[0] == own[0] and not self.card.colour:
            self._lengths[:] = [for_length(self, item[1])]
            return self._lengths[0]
        return self


def for_length(model: Model, length: int) -> Model:
    """Return a net of signals, built by name, for another length; its file does not state one.

    Raises:
        ModelError: a net that the engine does not build, or one that takes no signals.
    """
    from engine import nets

    card, graph = model.card, model.graph
    if not graph.parameters or len(card.input_shape) != 2:
        raise ModelError(f"net '{card.net}' takes items of {card.input_shape}, and no others")
    shape = (card.input_shape[0], length)
    return Model(replace(card, input_shape=shape), nets.fit(card.net, graph.initializers, shape)[0])


def load(path: str | Path, net: str | None = None) -> Model:
    """Read a model file, which may hold a card, a graph, or arrays only.

    Args:
        path: a `.npz`, `.pth` (`.pt`, `.ckpt`, ...), `.safetensors` or `.onnx` file, or a folder of text dumps.
        net: name of the net, for arrays without a card; None: recognise it by the names and shapes of the arrays, with
            a warning where a net with other activations or pools could have the same.

    Raises:
        ModelError: the file cannot be read, is damaged, or does not fit the net.
        UnsupportedOperator: the file's graph uses an operator that the engine lacks.
    """
    path = Path(path)
    model = _read(path, net)
    if path.is_dir():
        return model
    originals = LazyWeights(model.graph.initializers, path, lambda: _read(path, net).graph.initializers)
    return Model(model.card, replace(model.graph, initializers=originals))


def _read(path: Path, net: str | None) -> Model:
    from engine import formats  # lazy: workers, which attach to a shared model, load no formats

    content = formats.read(path)
    try:
        return _assemble(content, net)
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error


def _assemble(content: Content, net: str | None) -> Model:
    from engine import nets

    if content.graph is not None:
        check_supported(every_node(content.graph))
    _check_finite(content.arrays, content.graph)
    if content.graph is not None:
        card = content.card or ModelCard(content.graph.name)
        if net not in (None, card.net):
            raise ModelError(f"it holds a graph, '{card.net}', but net '{net}' was requested")
        return Model(card, content.graph)
    arrays, card_inside = _plain_names(content.arrays), content.card
    if card_inside is not None and net not in (None, card_inside.net):
        raise ModelError(f"its card names net '{card_inside.net}', but net '{net}' was requested")
    name = card_inside.net if card_inside else net or nets.recognise(arrays)
    if name is not None and card_inside is None and net is None and nets.assumed(name):
        warnings.warn(
            f"taken for net '{name}' by the names and shapes of its arrays alone, with {nets.assumed(name)} between "
            f"its layers: other nets look the same; say --net {name} (in Python: net='{name}') if that is right",
            stacklevel=4,
        )
    if name is None:
        from engine.formats.torch_checkpoint import export_lines

        channels = next((array.shape[1] for array in arrays.values() if array.ndim == 4), 3)
        how = export_lines("model.load_state_dict(torch.load('net.pth'))  # 'model' as it was trained", channels)
        raise ModelError(
            f"its arrays fit no net by names and shapes; name it with --net, one of {', '.join(nets.REGISTRY)}; or "
            f"export it in Python, and load net.onnx:{how}"
        )
    graph, card = nets.fit(name, arrays, card_inside.input_shape if card_inside else None)
    return Model(card_inside or card, graph)


def _check_finite(arrays: Mapping[str, Array], graph: Graph | None) -> None:
    """Refuse weights that are not finite; another constant of a graph (a bound, a mask's value) may be infinite."""
    weights = arrays.keys() if graph is None else weights_of(graph)
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not (np.isfinite(array) if key in weights else ~np.isnan(array)).all():
            raise ModelError(f"parameter '{key}' holds NaN or infinity; the file is damaged or its training diverged")


def _plain_names(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the arrays without prefixes that all names share, as wrappers of a net add ('module.', '_orig_mod.')."""
    while len({name.partition(".")[0] for name in arrays}) == 1 and all("." in name for name in arrays):
        arrays = {name.partition(".")[2]: array for name, array in arrays.items()}
    return arrays


def with_card(model: Model, **changes: object) -> Model:
    """Return the same model with changed fields of its card; raises ModelError if one is invalid or does not fit."""
    return Model(replace(model.card, **changes), model.graph, model.prepared)  # type: ignore[arg-type]
