"""Adds to the object net of `objects_outliers` what is none of its classes: one class more, fitted on its features.

No layer learns: the labels stay as they are. Some minutes of one CPU core.
"""

from weights.recipe import Recipe

RECIPE = Recipe(
    net="objects",
    data="cifar10",
    epochs=0,
    batch=256,
    learning_rate=0.0,
    storage="float16",
    validation=0.04,
    start="runs/objects_outliers.npz",
    none_class=12_000,
)
