"""Loads the model of the settings: a shipped name or a file, whose card the settings may correct."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.errors import CamappError, ExitCode
from camapp.core.model_table import KnownModel, known_file, known_models, labels_named, labels_of_net
from camapp.core.settings import Settings
from engine.model import Model, ModelCard, ModelError, load, with_card

SHIPPED = Path(__file__).parents[2] / "weights"
# Settings that belong to one model file.
_OF_THE_FILE = ("model", "net", "task", "labels", "mean", "std")


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
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.npz"))) or "none"
    raise BadModel(
        f"no model '{name}': not a file, and not a shipped model ({names}); 'camapp models' lists those to fetch"
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
    """Load the model of the settings; --labels, --mean, --std and --task correct its card.

    Raises:
        BadModel: the file is missing, damaged or does not match its net, takes no images, or a correction does not
            match the model.
    """
    with bad_models():
        model = load_file(model_path(settings.model), settings.net)
    if not model.card.colour:
        raise BadModel(f"{settings.model}: net '{model.card.net}' takes {model.card.input_shape}, not images")
    channels = model.card.input_shape[0]
    changes: dict[str, object] = {}
    for name in ("mean", "std"):
        values = getattr(settings, name)
        if values is not None:
            if len(values) not in (1, channels):
                raise BadModel(f"--{name} has {len(values)} values, the model has {channels} input channels")
            changes[name] = tuple(values) * (channels // len(values))
    if settings.labels is not None:
        changes["labels"] = read_labels(settings.labels)
    if settings.task is not None:
        changes["task"] = settings.task
    with bad_models():
        return with_card(model, **changes) if changes else model


def load_file(path: Path, net: str | None = None) -> Model:
    """Load a model file; a published one gets its card, and a published net the class names that it was trained with.

    Raises:
        BadModel: a file in the cache of published models that has other content.
        ModelError: as `engine.model.load`.
    """
    known = None if path.parent == SHIPPED else known_file(path)
    if known is None and path.parent != SHIPPED and any(path == each.path for each in known_models().values()):
        raise BadModel(f"{path} has not the published content: 'camapp models get' fetches it again")
    model = load(path, net=net)
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
        parts.append([output.copy() for output in plan.outputs])
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


def read_labels(text: str) -> tuple[str, ...]:
    """Read class names from a file (one per line, or a JSON list), from the text itself ('cat,dog'), or by data set.

    'imagenet' and 'coco' name lists that camapp has.

    Raises:
        BadModel: the file cannot be read or has other content.
    """
    path = Path(text).expanduser()
    if not path.exists():
        if "," in text:
            return _names(text.split(","), "--labels")
        if names := labels_named(text):
            return names
        raise BadModel(f"no label file '{text}' (or give names separated by commas, or imagenet or coco)")
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            values = json.loads(content)
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise BadModel(f"{path}: expected a JSON list of names")
            return _names(values, str(path))
    except OSError as error:
        raise BadModel(f"{path}: cannot read the labels: {error.strerror}") from error
    except ValueError as error:
        raise BadModel(f"{path}: not a list of names: {error}") from error
    return _names(content.splitlines(), str(path))


def _names(lines: Sequence[str], where: str) -> tuple[str, ...]:
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise BadModel(f"{where}: it contains no class names")
    return names


def shipped_models() -> list[tuple[Path, ModelCard]]:
    """Return the shipped model files with their cards."""
    return [(path, load(path).card) for path in sorted(SHIPPED.glob("*.npz"))]
