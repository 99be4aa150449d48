"""Teaches a net the user's own classes in NumPy: features by the engine, and a new last layer fitted to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camapp.capture.images import read_image
from camapp.core.image_ops import Preprocessor
from camapp.core.models import load_model, run_items
from camapp.core.settings import load_settings
from engine.graph import Array
from engine.model import Model
from engine.model_card import ModelCard
from engine.runtime.convert import save
from weights import WeightsError
from weights.datasets import Images
from weights.evaluate import Evaluation, normalised
from weights.features import Backbone, backbone_of, features
from weights.folder import VALIDATION, check_counts, files_of, fitted, held_back, measured
from weights.outliers import outliers
from weights.rejection import Measured, compare
from weights.sheet import MOST
from weights.softmax import Layer, Step, fit_path

# Largest difference between the scores of the written model and those it was fitted with, of their size.
TOLERANCE = 1e-3
CHECKED = 4
# Numbers of generated images without the classes, made from at most `SHOWN` held-back ones, and of plain noise.
GENERATED, NOISES, SHOWN = 600, 40, 50


@dataclass(frozen=True)
class Report:
    """Callbacks for progress: the number of images, those done since the last call, and each weight decay tried."""

    images: Callable[[int], None] = lambda count: None
    done: Callable[[int], None] = lambda count: None
    step: Callable[[Step], None] = lambda step: None
    warn: Callable[[str], None] = print


@dataclass(frozen=True)
class Taught:
    """The model with its new classes, the step that was kept, and how good it is on the images held back."""

    model: Model
    best: Step
    result: Evaluation
    rejection: Measured


@dataclass(frozen=True)
class _Split:
    """Features and labels, and where they come from."""

    features: Array
    labels: Array
    files: list[str]


def backbone_named(name: str) -> Backbone:
    """Return the net to start from, cut before its last layer.

    Args:
        name: of a shipped or fetched model, or a model file.

    Raises:
        NotFetched, BadModel: the model cannot be used.
        WeightsError: it has no last layer that can be replaced.
    """
    return backbone_of(load_model(load_settings({"model": name}, environment={})))


def some_images(folder: Path, card: ModelCard, count: int = MOST) -> tuple[Images, tuple[str, ...]]:
    """Return some images of a folder as the net will see them, taken from each class in turn, and the classes."""
    classes = files_of(folder, lambda text: None)
    each = max(1, count // max(1, len(classes)))
    pairs = [(label, file) for label, files in enumerate(classes.values()) for file in files[:each]]
    shown = [(label, fitted(read_image(file), card, "crop")) for label, file in pairs[:count]]
    if not shown:
        raise WeightsError(f"{folder}: there are no images to show")
    return Images(np.stack([image for _, image in shown]), np.array([label for label, _ in shown])), tuple(classes)


def teach(
    folder: Path,
    backbone: Backbone,
    name: str,
    report: Report = Report(),
    validation: float | None = None,
    workers: int = 0,
) -> Taught:
    """Fit a new last layer to the images of a folder with one subfolder per class.

    Args:
        name: of the backbone, for the model card.
        validation: share of each class that chooses the weight decay, and is measured on; None takes a fifth.
        workers: processes; 0 takes all cores.

    Raises:
        WeightsError: too few classes or images, or no worker stays alive.
    """
    classes = files_of(folder, report.warn)
    files = [file for each in classes.values() for file in each]
    report.images(len(files))
    found, bad = features(backbone, files, workers=workers, progress=report.done)
    labels = np.repeat(np.arange(len(classes)), [len(each) for each in classes.values()])
    usable = np.array([index not in bad for index in range(len(files))], bool)
    counts = {key: int(usable[labels == number].sum()) for number, key in enumerate(classes)}
    check_counts(folder, counts, [f"{files[index]}: {reason}" for index, reason in bad.items()], report.warn)
    train, judged = _split(found, labels, files, usable, validation or VALIDATION)
    layer, best, rejection = _fit(train, judged, len(classes), _unknown(backbone, judged), report.step)
    confusion = np.zeros((len(classes),) * 2, np.int64)
    np.add.at(confusion, (judged.labels, layer(judged.features).argmax(axis=1)), 1)
    card = backbone.start.card
    total = len(train.files) + len(judged.files)
    result = Evaluation(confusion, 0.0)
    model = backbone.with_layer(
        layer,
        task="classify",
        labels=tuple(classes),
        accuracy={measured(len(judged.files), total): round(result.accuracy, 4)},
        rejection=rejection.energies,
        recipe=f"python -m weights train folder --from {name}: a new last layer on the features of {card.net}, "
        f"weight decay {best.decay:.1e}, validation loss {best.validation_loss:.4f}; {len(train.files)} train, "
        f"{len(judged.files)} validation, sha256 of the features {_digest(found[usable])}",
        licence=f"that of your images; the net's own weights: {card.licence or 'not stated'}",
    )
    _check(model, backbone, layer, judged)
    return Taught(model, best, result, rejection)


def write(taught: Taught, out: Path) -> None:
    """Write the model; raises WeightsError if it cannot be written."""
    try:
        save(taught.model, out)
    except OSError as error:
        raise WeightsError(f"cannot write {out}: {error.strerror or error}") from error


def suffix_for(backbone: Backbone) -> str:
    """Return the suffix of the file: a graph that is no net of the engine fits into an ONNX file only."""
    return ".npz" if backbone.start.graph.parameters else ".onnx"


def _split(found: Array, labels: Array, files: list[str], usable: Array, validation: float) -> tuple[_Split, _Split]:
    """Return what to learn from, and the last images of each class."""
    held = np.zeros(len(files), bool)
    for number in range(int(labels.max()) + 1):
        own = np.flatnonzero(usable & (labels == number))
        held[own[-held_back(len(own), validation) :]] = True
    train, judged = (
        _Split(found[chosen], labels[chosen], [files[index] for index in np.flatnonzero(chosen)])
        for chosen in (usable & ~held, held)
    )
    return train, judged


def _unknown(backbone: Backbone, judged: _Split) -> Array:
    """Return the features of generated images that show none of the classes."""
    card = backbone.start.card
    chosen = judged.files[:: -(-len(judged.files) // SHOWN)]
    shown = np.stack([fitted(read_image(file), card, "crop") for file in chosen])
    made = outliers(Images(shown, np.zeros(len(shown), np.uint8)), GENERATED, seed=1)
    noise = np.random.default_rng(1).integers(0, 256, (NOISES, *made.shape[1:]), np.uint8)
    # Half of it without colours.
    noise[NOISES // 2 :] = noise[NOISES // 2 :, :1]
    inputs = normalised(np.concatenate([made, noise]), card)
    return run_items(backbone.model, inputs, len(inputs), backbone.model.only_batch or 1)[0]


def _fit(
    train: _Split, judged: _Split, classes: int, unknown: Array, report: Callable[[Step], None]
) -> tuple[Layer, Step, Measured]:
    """Fit a layer for the classes and one more for `unknown` features, and subtract that one's score from the others.

    That leaves their softmax as it is, and the energy is the log-odds of knowing an image. It is measured on images
    that were not used to fit.
    """
    learnt, others = unknown[::2], unknown[1::2]

    def joined(known: _Split, made: Array) -> tuple[Array, Array]:
        labels = np.append(known.labels, np.full(len(made), classes))
        return np.concatenate([known.features, made]), labels

    joint, best = fit_path(joined(train, learnt), joined(judged, others), classes + 1, report)
    layer = Layer(joint.weight[:-1] - joint.weight[-1], joint.bias[:-1] - joint.bias[-1])
    return layer, best, compare(layer(judged.features), judged.labels, layer(others))


def _check(model: Model, backbone: Backbone, layer: Layer, judged: _Split) -> None:
    """Refuse a model that does not give the scores that its last layer was fitted with."""
    some = judged.files[:CHECKED]
    inputs = np.zeros((len(some), *model.card.input_shape), np.float32)
    preprocess = Preprocessor(model.card)
    for file, item in zip(some, inputs, strict=True):
        preprocess(read_image(file), item)
    found = run_items(model, inputs, len(some), model.only_batch or 1)[0]
    expected = layer(judged.features[: len(some)])
    worst = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not worst <= TOLERANCE:
        raise WeightsError(f"the model's scores differ by {worst:.1e} of their size from the fitted ones: not saved")


def _digest(found: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(found).data).hexdigest()[:16]
