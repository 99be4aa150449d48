"""How each shipped file is made: one short declarative module a net, one line here."""

from weights.recipe import Recipe, TrackRecipe
from weights.recipes import cifar10, cifar_small, digits, lenet, mnist, objects, track

RECIPES: dict[str, Recipe] = {
    module.RECIPE.net: module.RECIPE for module in (mnist, digits, lenet, cifar10, cifar_small, objects)
}
TRACKS: dict[str, TrackRecipe] = {track.RECIPE.net: track.RECIPE}
