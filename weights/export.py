"""Writes the result of a training run as a bundle, after checking and measuring it with the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from engine import nets
from engine.formats import npz
from engine.graph import Array
from engine.model import Model
from engine.model_card import ModelCard
from weights import WeightsError
from weights.datasets import Dataset
from weights.evaluate import Evaluation, evaluate, normalised
from weights.none_class import fitted_layer
from weights.recipe import Recipe, TrackRecipe
from weights.rejection import Measured, measure
from weights.torch_net import TorchNet
from weights.tracks import VALIDATION_SEED, render
from weights.train import Trained, card_for
from weights.train_track import TrackTrained

TOLERANCE = 1e-4
CHECKED = 200
CHECKED_SCENES = 20
LICENCE = "MIT"


def export(trained: Trained, recipe: Recipe, dataset: Dataset, out: Path) -> tuple[Model, Evaluation]:
    """Write the best checkpoint as a bundle with its card.

    Returns:
        The model as the engine has it, and how good it is on the test split.

    Raises:
        WeightsError: PyTorch and the engine disagree, or the file cannot be written.
    """
    card = card_for(recipe, dataset)
    arrays = trained.arrays
    if recipe.none_class:
        model = Model(card, nets.fit(recipe.net, arrays, card.input_shape)[0])
        arrays = {**arrays, **fitted_layer(model, dataset.train[: recipe.none_class], recipe.seed)}
    arrays = stored(arrays, recipe.storage)
    model = Model(card, nets.fit(recipe.net, arrays, card.input_shape)[0])
    shown = dataset.test[:CHECKED].fitted(model.card.input_shape).images
    check_equal(model, arrays, normalised(shown, model.card))
    result = evaluate(model, dataset.test)
    is_classifier = card.task == "classify" and card.colour
    rejection = measure(model, dataset.validation) if is_classifier else Measured({}, {})
    card = replace(
        card,
        accuracy={dataset.measured: round(result.accuracy, 4)},
        rejection=rejection.energies,
        recipe=describe(recipe, trained, dataset),
        licence=LICENCE,
    )
    return replace(model, card=_save(out, arrays, card)), result


def export_track(trained: TrackTrained, recipe: TrackRecipe, out: Path) -> Model:
    """Write the best checkpoint of the track net as a bundle with its card.

    Raises:
        WeightsError: PyTorch and the engine disagree, or the file cannot be written.
    """
    model = Model(nets.default_card(recipe.net), nets.build(recipe.net).bind(trained.arrays))
    shown = render(range(VALIDATION_SEED, VALIDATION_SEED + CHECKED_SCENES)).images.transpose(0, 3, 1, 2)
    check_equal(model, trained.arrays, normalised(shown, model.card))
    best = trained.best
    found = {"precision": best.precision, "recall": best.recall}
    made = (
        f"python -m weights train {recipe.name} with {recipe}, "
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"validation loss {best.validation_loss:.4f} in epoch {best.number}, place error {best.place:.3f} cells"
    )
    card = replace(
        model.card,
        accuracy={f"{name} of cells, generated scenes": round(share, 4) for name, share in found.items()},
        recipe=made,
        licence=LICENCE,
    )
    return replace(model, card=_save(out, trained.arrays, card))


def _save(out: Path, arrays: dict[str, Array], card: ModelCard) -> ModelCard:
    try:
        return npz.save_bundle(out, arrays, card)
    except OSError as error:
        raise WeightsError(f"cannot write {out}: {error.strerror or error}") from error


def stored(arrays: dict[str, Array], storage: str) -> dict[str, Array]:
    """Return the arrays as stored: those of two and more dimensions, which dominate the size, in that dtype."""
    return {name: array.astype(storage) if array.ndim > 1 else array for name, array in arrays.items()}


def describe(recipe: Recipe, trained: Trained, dataset: Dataset) -> str:
    """Describe the training in one line, enough to repeat it."""
    best = trained.best
    splits = f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test"
    return (
        f"python -m weights train {recipe.name} with {recipe}, "
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"best validation loss {best.validation_loss:.4f} in epoch {best.number}; "
        f"{dataset.name}: {splits}, sha256 of images and labels {dataset.sha256}"
    )


@torch.no_grad()
def check_equal(model: Model, arrays: dict[str, Array], inputs: Array) -> None:
    """Refuse a net that the engine runs differently from PyTorch.

    Raises:
        WeightsError: outputs for these inputs differ by more than 1e-4 of their size (of 1, where they are smaller).
    """
    net = TorchNet(model.graph).eval()
    net.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, strict=False)
    expected = net(torch.tensor(inputs)).numpy()
    found = model.run(inputs)
    worst = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not worst <= TOLERANCE:
        raise WeightsError(
            f"{model.card.net}: the engine's outputs differ from PyTorch's by {worst:.1e} of their size, "
            f"allowed is {TOLERANCE:.0e}: nothing was saved"
        )
