"""Continues S3's net from `cifar10_plain`, with generated images that show none of its classes. Some minutes."""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    net="cifar10",
    data="cifar10",
    epochs=8,
    batch=64,
    learning_rate=0.015,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one_cycle",
    augment=Augment(crop=3, flip=True),
    start="runs/cifar10_plain.npz",
    outliers=16_000,
)
