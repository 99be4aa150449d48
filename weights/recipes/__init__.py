"""How each shipped file is made: one short declarative module a net, one line here."""

from weights.recipe import Recipe, TrackRecipe
from weights.recipes import cifar10, cifar_small, lenet, mnist, track, track_photographs

RECIPES: dict[str, Recipe] = {module.RECIPE.net: module.RECIPE for module in (mnist, lenet, cifar10, cifar_small)}
TRACKS: dict[str, TrackRecipe] = {module.RECIPE.name: module.RECIPE for module in (track, track_photographs)}
