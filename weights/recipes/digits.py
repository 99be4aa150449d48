"""The digit net: MNIST as it is and on paper in front of a camera, all turned, moved, scaled, thinned and thickened."""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    net="digits",
    data="mnist",
    epochs=10,
    batch=128,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one_cycle",
    precision="bfloat16",
    augment=Augment(share=0.8, rotate=15, shift=1.5, scale=0.12, stroke=0.5),
    paper=16_000,
)
