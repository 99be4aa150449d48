"""S1's large net on generated signals. As published: noise with labels by chance, SGD 0.001, 1000 epochs."""

from weights.recipe import Recipe

RECIPE = Recipe(
    net="mobilenet_v3_1d_large",
    data="signals",
    epochs=10,
    batch=100,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="one_cycle",
)
