"""Makes a bundle of a training run: checked against the engine, measured by it, and saved whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from engine import nets
from engine.formats import npz
from engine.model import Model
from weights import WeightsError
from weights.datasets import Dataset
from weights.evaluate import Evaluation, evaluate, normalised
from weights.recipe import Recipe
from weights.torch_net import TorchNet
from weights.train import Trained, card_for

TOLERANCE = 1e-4
CHECKED = 200
LICENCE = "MIT"


def export(trained: Trained, recipe: Recipe, dataset: Dataset, out: Path) -> tuple[Model, Evaluation]:
    """Write the best checkpoint as a bundle with its card.

    Returns:
        The model as the engine has it, and how good it is on the test split.

    Raises:
        WeightsError: PyTorch and the engine disagree, or the file cannot be written.
    """
    card = card_for(recipe, dataset)
    model = Model(card, nets.fit(recipe.net, trained.arrays)[0])
    check_equal(model, trained, dataset)
    result = evaluate(model, dataset.test)
    card = replace(
        card,
        accuracy={dataset.measured: round(result.accuracy, 4)},
        recipe=describe(recipe, trained, dataset),
        licence=LICENCE,
    )
    try:
        card = npz.save_bundle(out, trained.arrays, card)
    except OSError as error:
        raise WeightsError(f"cannot write {out}: {error.strerror or error}") from error
    return replace(model, card=card), result


def describe(recipe: Recipe, trained: Trained, dataset: Dataset) -> str:
    """What made the file, in a line: enough to make it again."""
    best = trained.best
    splits = f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test"
    return (
        f"python -m weights train {recipe.name} with {recipe}, "
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"best validation loss {best.validation_loss:.4f} in epoch {best.number}; "
        f"{dataset.name}: {splits}, sha256 of pictures and labels {dataset.sha256}"
    )


@torch.no_grad()
def check_equal(model: Model, trained: Trained, dataset: Dataset) -> None:
    """Refuse a net that the engine runs differently from PyTorch.

    Raises:
        WeightsError: outputs on real pictures differ by more than 1e-4 of their size (of 1, where they are smaller).
    """
    net = TorchNet(model.graph).eval()
    net.load_state_dict({name: torch.tensor(array) for name, array in trained.arrays.items()}, strict=False)
    inputs = normalised(dataset.test[:CHECKED].fitted(model.card.input_shape).images, model.card)
    expected = net(torch.tensor(inputs)).numpy()
    found = model.run(inputs)
    worst = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not worst <= TOLERANCE:
        raise WeightsError(
            f"{model.card.net}: the engine's outputs differ from PyTorch's by {worst:.1e} of their size, "
            f"allowed is {TOLERANCE:.0e}: nothing was saved"
        )
