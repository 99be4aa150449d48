"""Recipes of the shipped files and some others: one short declarative module per net, and one line here."""

from weights.recipe import Recipe, TrackRecipe
from weights.recipes import (
    cifar10,
    cifar10_plain,
    cifar_small,
    digits,
    lenet,
    mnist,
    mobilenet_v3_1d_large,
    mobilenet_v3_1d_small,
    objects,
    objects_outliers,
    objects_plain,
    resnets,
    track,
    track_photographs,
)

MODULES = (
    mnist,
    digits,
    lenet,
    cifar10_plain,
    cifar10,
    cifar_small,
    objects_plain,
    objects_outliers,
    objects,
    mobilenet_v3_1d_small,
    mobilenet_v3_1d_large,
)
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*(module.RECIPE for module in MODULES), *resnets.RECIPES)
}
TRACKS: dict[str, TrackRecipe] = {module.RECIPE.name: module.RECIPE for module in (track, track_photographs)}
