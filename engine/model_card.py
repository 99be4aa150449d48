"""Describes models: a ModelCard names the net, the input and the outputs; a bundle holds it as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from engine.graph import ModelError

COLOURS = {"GRAY": 1, "RGB": 3, "BGR": 3}
MAX_AXES = 8
_MAPPINGS = ("accuracy", "rejection")


class Output(NamedTuple):
    """Describes an output of a net.

    Attributes:
        name: of the graph's output.
        shape: for one item, without a leading batch axis of 1.
        operators: that compute its numbers, sorted; those that only move numbers are left out.
    """

    name: str
    shape: tuple[int, ...]
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """Holds everything about a model except its parameters.

    Attributes:
        net: name in `engine.nets`.
        task: the meaning of the outputs ('classify', 'digits', ...); the application defines the names.
        input_shape: one item's: (C, H, W) of an image, (C, L) of a signal, or any other.
        mean: subtracted from each channel, on the [0, 1] scale; () means zeros.
        std: divides each channel after that; () means ones.
        colour: order of the channels: 'RGB', 'BGR' or 'GRAY'; "" if the input is no image.
        labels: names of the outputs, in order; () if they have none.
        accuracy: share of correct predictions, 0 to 1, by name of the data set.
        rejection: energy (log of the sum of exponentials of the outputs) below which an input is taken for none of the
            classes, by the share of the classes' own inputs that this refuses, such as '0.01'; empty if not measured.
        recipe: how the model was trained.
        licence: of the weights.
        sha256: of the arrays in the bundle (`engine.formats.npz.digest`); "" if not stated.
        head: how the outputs encode what was found; the application defines the names. "" if not stated.
        anchors: widths and heights of the anchor boxes in pixels of the input, w0, h0, w1, h1, ...; () if none.
        outputs: of the net, in order; () if not stated.
        metadata: texts by name that the file states in a format of its own, such as 'stride' and 'names'.

    Raises:
        ModelError: a value of the wrong kind or out of range; the message names key, value and what is allowed.
    """

    net: str
    task: str = "classify"
    input_shape: tuple[int, ...] = (3, 224, 224)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour: str = "RGB"
    labels: tuple[str, ...] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict)
    rejection: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""
    licence: str = ""
    sha256: str = ""
    head: str = ""
    anchors: tuple[float, ...] = ()
    outputs: tuple[Output, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (is_allowed, allowed) in _RULES.items():
            value = getattr(self, name)
            if not is_allowed(value):
                _refuse(name, value, allowed)
        channels = self.input_shape[0] if len(self.input_shape) > 1 else 1
        if self.colour and len(self.input_shape) != 3:
            _refuse("input_shape", self.input_shape, f"three whole numbers C, H, W for colour {self.colour}")
        if self.colour and channels != COLOURS[self.colour]:
            _refuse("input_shape", self.input_shape, f"{COLOURS[self.colour]} channels for colour {self.colour}")
        for name, neutral in (("mean", 0.0), ("std", 1.0)):
            values = getattr(self, name) or (neutral,) * channels
            if len(values) != channels:
                _refuse(name, values, f"{channels} numbers, one a channel")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        for name in ("accuracy", "metadata"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def to_json(self) -> str:
        """Return the card as one JSON object; the later keys are left out if empty, so that older programs read it."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {name: value for name, value in values.items() if value or name not in _LATER_KEYS}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Return the card that `to_json` wrote; raises ModelError for other text, or a bad key or value."""
        try:
            found = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"model card is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise ModelError(f"model card: expected a JSON object, found {type(found).__name__}")
        known = [item.name for item in fields(cls)]
        for key in found:
            if key not in known:
                raise ModelError(f"model card: unknown key '{key}'; allowed are {', '.join(known)}")
        if "net" not in found:
            raise ModelError("model card: key 'net' is missing")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        if "outputs" in values:
            values["outputs"] = _outputs(values["outputs"])
        return cls(**values)


_LATER_KEYS = ("head", "anchors", "outputs", "metadata")


def _outputs(found: Any) -> tuple[Output, ...]:
    try:
        return tuple(Output(name, tuple(shape), tuple(operators)) for name, shape, operators in found)
    except (TypeError, ValueError):
        _refuse("outputs", found, "a list of [name, shape, operators]")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = {key for key in keys if keys.count(key) > 1}
    if repeated:
        raise ModelError(f"model card: key '{min(repeated)}' appears twice")
    return dict(pairs)


def _refuse(key: str, value: object, allowed: str) -> NoReturn:
    raise ModelError(f"model card: '{key}' is {value!r:.80}; allowed is {allowed}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tuple_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(is_item(item) for item in value)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 24


def _is_accuracy(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(key) and _is_number(share) and 0 <= share <= 1 for key, share in value.items()
    )


def _is_output(value: object) -> bool:
    return (
        isinstance(value, Output)
        and _is_text(value.name)
        and _tuple_of(_is_side)(value.shape)
        and len(value.shape) <= MAX_AXES
        and _tuple_of(_is_text)(value.operators)
    )


def _is_metadata(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_text(key) and _is_text(text) for key, text in value.items())


def _is_rejection(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_share(key) and _is_number(least) for key, least in value.items())


def _is_share(text: object) -> bool:
    try:
        return isinstance(text, str) and 0 < float(text) < 1
    except ValueError:
        return False


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "net": (lambda value: _is_text(value) and value != "", "the name of a net"),
    "task": (lambda value: _is_text(value) and value != "", "the name of a task"),
    "input_shape": (
        lambda value: _tuple_of(_is_side)(value) and len(value) <= MAX_AXES,
        f"three whole numbers C, H, W; up to {MAX_AXES} if the input is no image",
    ),
    "mean": (_tuple_of(_is_number), "finite numbers, one a channel"),
    "std": (_tuple_of(lambda item: _is_number(item) and item > 0), "numbers above 0, one a channel"),
    "colour": (lambda value: _is_text(value) and value in ("", *COLOURS), ", ".join(COLOURS)),
    "labels": (_tuple_of(_is_text), "a list of strings"),
    "accuracy": (_is_accuracy, "an object of names and shares from 0 to 1"),
    "rejection": (_is_rejection, "an object of shares between 0 and 1 (as strings) and finite numbers"),
    "recipe": (_is_text, "a string"),
    "licence": (_is_text, "a string"),
    "sha256": (_is_text, "a string"),
    "head": (_is_text, "a string"),
    "anchors": (
        lambda value: _tuple_of(lambda item: _is_number(item) and item > 0)(value) and len(value) % 2 == 0,
        "widths and heights above 0, in pairs",
    ),
    "outputs": (_tuple_of(_is_output), f"names, shapes of up to {MAX_AXES} whole numbers and operators"),
    "metadata": (_is_metadata, "an object of strings"),
}
