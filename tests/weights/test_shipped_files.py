import re
from pathlib import Path

import numpy as np
import pytest

import engine.model
from engine.runtime.profile import profile
from tests.weights.made_data import SHARED
from weights.datasets import load
from weights.evaluate import evaluate
from weights.recipe import Augment, Recipe
from weights.recipes import RECIPES, TRACKS

FOLDER = Path(__file__).resolve().parents[2] / "weights"
SHIPPED = sorted(FOLDER.glob("*.npz"))
CLASSIFIERS = [path for path in SHIPPED if path.stem in RECIPES]


def accuracy_of(model):
    (share,) = model.card.accuracy.values()
    return share


def test_the_default_models_are_shipped():
    assert {"digits.npz", "cifar10.npz"} <= {path.name for path in SHIPPED}


def test_every_shipped_file_has_a_recipe():
    assert {path.stem for path in SHIPPED} <= {*RECIPES, *TRACKS}


def test_the_track_file_has_a_complete_card():
    card = engine.model.load(FOLDER / "track.npz").card
    assert (card.net, card.task, card.licence, len(card.sha256)) == ("track", "track", "MIT", 64)
    assert card.recipe.startswith("python -m weights train track_photographs with TrackRecipe(")


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.name)
def test_a_shipped_file_has_a_complete_card(path):
    model = engine.model.load(path)
    assert model.card.net == path.stem
    made = re.match(rf"python -m weights train {path.stem} with (Recipe\(.*\)), PyTorch", model.card.recipe)
    assert made, model.card.recipe
    # A setting that is missing in a card is newer than its file, which was trained with the default.
    recipe = eval(made[1], {"Recipe": Recipe, "Augment": Augment})
    assert recipe == RECIPES[path.stem], "the recipe has changed: retrain the file"
    assert model.card.licence == "MIT"
    assert len(model.card.sha256) == 64
    assert len(model.card.labels) == 10
    assert model.run(np.zeros((1, *model.card.input_shape), np.float32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "minimum"),
    [("digits", 0.995), ("mnist", 0.986), ("lenet", 0.990), ("cifar10", 0.76), ("cifar_small", 0.65), ("objects", 0.9)],
)
def test_the_stated_accuracy_reaches_the_target(name, minimum):
    assert accuracy_of(engine.model.load(FOLDER / f"{name}.npz")) >= minimum


@pytest.mark.parametrize(("name", "mmac", "kilobytes"), [("digits", 5, 500), ("objects", 60, 3000)])
def test_this_projects_nets_are_within_their_limits(name, mmac, kilobytes):
    model = engine.model.load(FOLDER / f"{name}.npz")
    assert profile(model, rounds=1).macs <= mmac * 1e6
    assert (FOLDER / f"{name}.npz").stat().st_size <= kilobytes * 1e3


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the real MNIST is not on this machine")
@pytest.mark.parametrize("name", ["digits", "mnist", "lenet"])
def test_digits_reach_their_stated_accuracy_in_the_engine(name):
    model = engine.model.load(FOLDER / f"{name}.npz")
    found = evaluate(model, load("mnist", SHARED, download=False).test)
    assert round(found.accuracy, 4) == pytest.approx(accuracy_of(model), abs=2 / found.images)
