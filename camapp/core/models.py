"""Loads the model of the settings: a shipped name or a file, whose card the settings may correct."""

from __future__ import annotations

import ast
import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.channels_first import channels_first
from camapp.core.errors import CamappError, ExitCode
from camapp.core.labels import knowledge, read_labels
from camapp.core.log_once import LogOnce
from camapp.core.model_table import KnownModel, known_file, known_models, labels_of_net
from camapp.core.settings import Settings
from engine import nets
from engine.graph import Graph, Shape
from engine.model import Model, ModelCard, ModelError, load, with_card
from engine.model_card import Output

log = logging.getLogger(__name__)
# A model is loaded again by each check and reload.
_warn = LogOnce(log)
_OTHER_STATISTICS = (
    "--%s is not what net '%s' is usually trained with (%s): leave it out, unless this file was trained with other "
    "values; wrong ones cost much accuracy"
)

SHIPPED = Path(__file__).parents[2] / "weights"
# Settings that belong to one model file.
_OF_THE_FILE = ("model", "net", "task", "head", "labels", "mean", "std", "colour", "anchors")
# Operators that move or convert numbers, and compute none.
_MOVING = {
    *("Concat", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Cast"),
    *("Dropout", "DepthToSpace", "SpaceToDepth", "Expand"),
}
# The task of a model by the metadata 'task' of Ultralytics.
_ULTRALYTICS_TASKS = {"classify": "classify"} | dict.fromkeys(("detect", "segment", "pose", "obb"), "detect")


class BadModel(CamappError, ModelError):
    """The model cannot be used: its file is missing or damaged, or does not fit the settings."""

    code = ExitCode.CONFIG


class NotFetched(BadModel):
    """A published model was named whose file is not on this machine yet."""

    def __init__(self, known: KnownModel) -> None:
        self.known = known
        super().__init__(
            f"model '{known.name}' is not on this machine yet: 'camapp models get {known.name}' fetches it"
        )


@contextmanager
def bad_models() -> Iterator[None]:
    """Raise each ModelError of the engine as a BadModel with the same message."""
    try:
        yield
    except BadModel:
        raise
    except ModelError as error:
        # The cause stays the operating system's error if there is one: it decides about the exit code.
        raise BadModel(str(error)) from error.__cause__ or error


def model_path(name: str) -> Path:
    """Return the file of a shipped or published name (such as `digits`, `resnet18`), or the path itself.

    Raises:
        NotFetched: a published name whose file is not on this machine.
        BadModel: neither a name nor a file.
    """
    # A plain word is a shipped name even if the working folder has such a file; ./mnist names that one.
    shipped = SHIPPED / f"{name}.npz"
    if "/" not in name and shipped.exists():
        return shipped
    path = Path(name).expanduser()
    if path.exists():
        return path
    if known := known_models().get(name):
        if known.is_fetched:
            return known.path
        raise NotFetched(known)
    names = sorted(file.stem for file in SHIPPED.glob("*.npz"))
    close = get_close_matches(name, [*names, *known_models()], n=1)
    raise BadModel(
        f"no model '{name}': not a file, and not a shipped model ({', '.join(names) or 'none'}); "
        + (f"did you mean '{close[0]}'? " if close else "")
        + "'camapp models' lists those to fetch"
    )


def model_choices(first: Settings) -> dict[str, str]:
    """Return the models that a remote client may select, by displayed name: shipped, fetched and `first`'s own.

    Never arbitrary paths.
    """
    fetched = [known.name for known in known_models().values() if known.is_fetched]
    named = {name: name for name in [*(path.stem for path in sorted(SHIPPED.glob("*.npz"))), *fetched]}
    return named if first.model in named else {Path(first.model).name: first.model} | named


def with_model(settings: Settings, first: Settings, model: str) -> Settings:
    """Return the settings with another model, without those that belong to the model before.

    Args:
        model: a value of `model_choices`.
    """
    changes: dict[str, Any] = dict.fromkeys(_OF_THE_FILE) | {"model": model}
    if model == first.model:
        changes = {name: getattr(first, name) for name in _OF_THE_FILE}
    return replace(settings, **changes)


def load_model(settings: Settings) -> Model:
    """Load the model of the settings, and complete its card by the graph and the file's metadata.

    --labels, --mean, --std, --colour, --anchors, --head and --task correct the card.

    Raises:
        BadModel: the file is missing, damaged or does not match its net, takes no images, or a correction does not
            match the model.
    """
    with bad_models():
        model = load_file(model_path(settings.model), settings.net)
    if not model.card.colour:
        raise BadModel(f"{settings.model}: net '{model.card.net}' takes {model.card.input_shape}, not images")
    channels = model.card.input_shape[0]
    with bad_models():
        changes = _stated_by_the_file(model)
    for name in ("mean", "std"):
        values = getattr(settings, name)
        if values is not None:
            if len(values) not in (1, channels):
                raise BadModel(f"--{name} has {len(values)} values, the model has {channels} input channels")
            changes[name] = tuple(values) * (channels // len(values))
            usual = getattr(model.card, name)
            if model.card.net in nets.REGISTRY and not np.allclose(changes[name], usual, atol=0.02):
                shown = ",".join(f"{value:g}" for value in usual)
                _warn(logging.WARNING, (settings.model, name, values), _OTHER_STATISTICS, name, model.card.net, shown)
    if settings.labels is not None:
        with bad_models():
            changes["labels"] = read_labels(settings.labels)
    if settings.colour is not None:
        if channels != 3:
            raise BadModel(f"--colour is for three input channels, the model has {channels}")
        changes["colour"] = settings.colour
    changes |= {"anchors": settings.anchors} if settings.anchors else {}
    if settings.task or settings.head:
        changes["task"] = settings.task or "detect"
    with bad_models():
        model = with_card(model, **changes)
    _state_assumptions(settings.model, model.card)
    return model


def _state_assumptions(name: str, card: ModelCard) -> None:
    """Log once what a classifier without a model card is taken to expect and to know."""
    # Each card that was written by a training or for a published file has one of them.
    if card.recipe or card.licence or card.accuracy or card.task != "classify":
        return
    mean, std = (",".join(f"{value:.3g}" for value in values) for values in (card.mean, card.std))
    text = (
        "%s has no model card: it is run with %s pixels from 0 to 1, less the mean %s, divided by the deviation %s, "
        "and knows %s; --colour, --mean, --std and --labels change that"
    )
    _warn(logging.INFO, name, text, name, card.colour, mean, std, knowledge(card) or "no names of its classes")


def _stated_by_the_file(model: Model) -> dict[str, Any]:
    """Return what the outputs and the metadata of a file add to its card: Ultralytics' `names`, `task` and `imgsz`.

    Raises:
        ModelError: as `outputs_of`.
    """
    stated, card = model.card.metadata, model.card
    changes: dict[str, Any] = {}
    sides, free = _literal(stated.get("imgsz", "")), 0 in model.graph.inputs[0].shape[2:]
    if free and isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides):
        changes["input_shape"] = (card.input_shape[0], *sides)
        model = with_card(model, **changes)
    changes["outputs"] = outputs_of(model)
    # A file without a card has no labels, and is of task 'classify' by default.
    if card.task == "classify" and not card.labels and not _is_one_row(changes["outputs"]):
        changes["task"] = "detect"
    names = _literal(stated.get("names", ""))
    names = list(names.values()) if isinstance(names, dict) else names
    if not card.labels and isinstance(names, list | tuple) and names:
        changes["labels"] = tuple(map(str, names))
    if task := _ULTRALYTICS_TASKS.get(stated.get("task", "")):
        changes["task"] = task
    return changes


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_one_row(outputs: Sequence[Output]) -> bool:
    """Return whether the net has one output of one number a class."""
    return len(outputs) == 1 and all(size == 1 for size in outputs[0].shape[1:])


def outputs_of(model: Model) -> tuple[Output, ...]:
    """Return the names and shapes of the outputs for one item, and the operators that compute them.

    Raises:
        ModelError: the net cannot be planned, which is necessary if its file does not state all shapes.
    """
    if model.card.outputs:
        return model.card.outputs
    stated = [value.shape for value in model.graph.outputs]
    if any(not shape or 0 in shape[1:] or shape[0] > 1 for shape in stated):
        stated = [output.shape for output in model.plan().outputs]
    batch = max((value.shape[0] for value in model.graph.inputs if value.shape), default=0)
    return tuple(
        Output(value.name, _of_one_item(shape, batch), _operators(model.graph, value.name))
        for value, shape in zip(model.graph.outputs, stated, strict=True)
    )


def _of_one_item(shape: Shape, batch: int) -> Shape:
    """Return an output's shape without the axis of the batch, if it has one; `batch` is 0 or 1 if it is free."""
    return shape[1:] if len(shape) > 1 and (shape[0] < 2 or shape[0] == batch) else shape


def _operators(graph: Graph, name: str) -> tuple[str, ...]:
    """Return the operators that compute the numbers of a value: those before it that do not only move numbers."""
    makers = {output: node for node in graph.nodes for output in node.outputs}
    found: set[str] = set()
    left, seen = [name], {name}
    while left:
        node = makers.get(left.pop())
        if node is None:
            continue
        if node.op_type not in _MOVING:
            found.add(node.op_type)
            continue
        sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        left += [source for source in sources if source not in seen]
        seen.update(sources)
    return tuple(sorted(found))


def load_file(path: Path, net: str | None = None) -> Model:
    """Load a model file; a published one gets its card, and a published net the class names that it was trained with.

    Raises:
        BadModel: a file in the cache of published models that has other content.
        ModelError: as `engine.model.load`.
    """
    known = None if path.parent == SHIPPED else known_file(path)
    if known is None and path.parent != SHIPPED and any(path == each.path for each in known_models().values()):
        raise BadModel(f"{path} has not the published content: 'camapp models get' fetches it again")
    model = channels_first(load(path, net=net))
    if known is not None:
        return with_card(model, **known.card)
    outputs = model.graph.outputs[0].shape
    if not model.card.labels and len(outputs) == 2 and (names := labels_of_net(model.card.net, outputs[1])):
        return with_card(model, labels=names)
    return model


def run_items(model: Model, items: Floats, count: int, size: int) -> tuple[Floats, ...]:
    """Return the outputs for the first `count` of the items, run `size` at a time; zeros fill the last run."""
    shape = (size, *items.shape[1:])
    plan = model.plan(shape)
    parts = []
    for start in range(0, max(count, 1), size):
        batch = np.zeros(shape, np.float32)
        batch[: max(0, min(count - start, size))] = items[start : min(start + size, count)]
        plan.run(batch)
        # An output without a batch axis gets one.
        parts.append([np.array(output if len(output) == size else output[None]) for output in plan.outputs])
    return tuple(np.concatenate(outputs)[:count] for outputs in zip(*parts, strict=True))


def identity_of(settings: Settings) -> tuple[Hashable, ...] | None:
    """Return a key of net and parameters: equal for two settings with the same unchanged model file.

    None if there is no such file.
    """
    try:
        status = model_path(settings.model).stat()
    except (ModelError, OSError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, settings.net


def shipped_models() -> list[tuple[Path, ModelCard]]:
    """Return the shipped model files with their cards."""
    return [(path, load(path).card) for path in sorted(SHIPPED.glob("*.npz"))]
