"""Continues the object net from `objects_plain`, with generated images that show none of its classes.

About ten minutes of one CPU core with AVX-512 BF16.
"""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    title="objects_outliers",
    net="objects",
    data="cifar10",
    epochs=2,
    batch=256,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one_cycle",
    label_smoothing=0.05,
    precision="bfloat16",
    storage="float16",
    validation=0.04,
    augment=Augment(crop=4, flip=True, erase=8),
    start="runs/objects_plain.npz",
    kept=0.2,
    outliers=16_000,
)
