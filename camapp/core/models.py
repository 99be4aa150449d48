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
from camapp.core.settings import Settings
from engine.model import Model, ModelCard, ModelError, load, with_card

SHIPPED = Path(__file__).parents[2] / "weights"
# Settings that belong to one model file.
_OF_THE_FILE = ("model", "net", "task", "labels", "mean", "std")


class BadModel(CamappError, ModelError):
    """The model cannot be used: its file is missing or damaged, or does not fit the settings."""

    code = ExitCode.CONFIG


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
    """Return the file of a shipped name (such as `digits`), or the path itself. Raises BadModel if neither exists."""
    # A plain word is a shipped name even if the working folder has such a file; ./mnist names that one.
    shipped = SHIPPED / f"{name}.npz"
    if "/" not in name and shipped.exists():
        return shipped
    path = Path(name).expanduser()
    if path.exists():
        return path
    known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.npz"))) or "none"
    raise BadModel(f"no model '{name}': not a file, and not a shipped model ({known})")


def model_choices(first: Settings) -> dict[str, str]:
    """Return the models that a remote client may select, by displayed name: shipped ones and `first`'s own.

    Never arbitrary paths.
    """
    shipped = {path.stem: path.stem for path in sorted(SHIPPED.glob("*.npz"))}
    return shipped if first.model in shipped else {Path(first.model).name: first.model} | shipped


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
        model = load(model_path(settings.model), net=settings.net)
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
    """Read class names from a file (one per line, or a JSON list) or from the text itself ('cat,dog').

    Raises:
        BadModel: the file cannot be read or has other content.
    """
    path = Path(text).expanduser()
    if not path.exists():
        if "," in text:
            return _names(text.split(","), "--labels")
        raise BadModel(f"no label file '{text}' (or give names separated by commas)")
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
