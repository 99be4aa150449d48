"""Reads the user's own signals: data.npy and label.npy in a folder, and perhaps the names of the classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from camapp.core.labels import read_labels
from engine import nets
from engine.graph import Array
from engine.inputs import as_float32
from weights import WeightsError
from weights.datasets import Dataset, Images, digest
from weights.recipe import Recipe
from weights.recipes import RECIPES

NAME = "folder-signals"
DATA, LABELS, NAMES = "data.npy", "label.npy", "classes.txt"
MAX_CLASSES = 256
# Share of each class that is only measured on.
TEST_SHARE = 0.2
EPOCHS = 40


def recipe_for(net: str) -> Recipe:
    """Return the recipe of a net of signals for the user's own; raises WeightsError for another net."""
    known = [name for name, each in nets.REGISTRY.items() if not each.card.colour]
    if net not in known:
        raise WeightsError(f"--net {net} takes no signals: there are {', '.join(known)}")
    return replace(RECIPES[net], data=NAME, epochs=EPOCHS, batch=32, validation=0.1)


def read_names(text: str | None) -> tuple[str, ...]:
    """Return class names from the text of --labels; () for None."""
    return read_labels(text) if text is not None else ()


def load_signals(
    folder: Path, names: Sequence[str] = (), validation: float = 0.1, warn: Callable[[str], None] = print
) -> Dataset:
    """Read signals and their labels.

    The last fifth of each class is the test split, in file order, and the validation split lies just before it.

    Args:
        folder: holds data.npy, (count, channels, length) or (count, length), and label.npy, whole numbers from 0 on;
            perhaps classes.txt, a name a line.
        names: of the classes, in the order of the labels; () takes classes.txt, or numbers.
        validation: part of what is not test that is held back from training.
        warn: called with what was converted.

    Raises:
        WeightsError: files missing, damaged, or not of this form; too few signals of a class.
    """
    signals = _signals(folder / DATA, warn)
    labels = _labels(folder / LABELS, len(signals))
    if not names and (folder / NAMES).is_file():
        names = read_labels(str(folder / NAMES))
    count = int(labels.max()) + 1
    if count < 2:
        raise WeightsError(f"{folder / LABELS}: at least two classes are needed, found one")
    classes = tuple(names) or tuple(map(str, range(count)))
    if len(classes) < count:
        raise WeightsError(f"{folder / LABELS}: label {count - 1} found, but {len(classes)} class names are given")
    parts = _split(labels, classes, validation, folder)
    images = Images(signals, labels.astype(np.uint8))
    train, judged, test = (Images(images.images[part], images.labels[part]) for part in parts)
    measured = f"{NAME} test split, last {len(test)} of {len(images)} signals, by class"
    return Dataset(NAME, classes, train, judged, test, digest(images), measured)


def _signals(path: Path, warn: Callable[[str], None]) -> Array:
    array = _array(path)
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or not array.size or array.dtype.kind not in "fiu":
        raise WeightsError(f"{path}: {array.dtype} of shape {array.shape}; expected numbers (count, channels, length)")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            array = as_float32(array.astype(np.float64) if array.dtype.itemsize > 4 else array, str(path))
    except ValueError as error:
        raise WeightsError(str(error)) from error
    for warning in said:
        warn(str(warning.message))
    if not np.isfinite(array).all():
        raise WeightsError(f"{path}: it holds NaN or infinity")
    return np.ascontiguousarray(array, np.float32)


def _labels(path: Path, count: int) -> Array:
    array = np.squeeze(_array(path))
    if array.shape != (count,):
        raise WeightsError(f"{path}: {array.shape} labels for {count} signals")
    whole = array.dtype.kind in "fiub" and np.array_equal(array, np.floor(array))
    if not whole or array.min() < 0 or array.max() >= MAX_CLASSES:
        raise WeightsError(f"{path}: expected whole numbers from 0 to {MAX_CLASSES - 1}, one a signal")
    return array.astype(np.int64)


def _array(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
            return array
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise WeightsError(f"{path}: no array of numbers, or damaged ({error!s:.80})") from error


def _split(labels: Array, classes: Sequence[str], validation: float, folder: Path) -> list[Array]:
    """Return the indices of train, validation and test."""
    parts: list[list[Array]] = [[], [], []]
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        test_from = len(own) - max(1, round(len(own) * TEST_SHARE))
        train_to = test_from - max(1, round(test_from * validation))
        if train_to < 1:
            raise WeightsError(f"{folder}: class '{classes[number]}' has {len(own)} signals; five or more are needed")
        for part, indices in zip(parts, np.split(own, [train_to, test_from]), strict=True):
            part.append(indices)
    return [np.sort(np.concatenate(part)) for part in parts]
