"""S4's LeNet on MNIST, zero-padded to 32x32. Published without training."""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    net="lenet",
    data="mnist",
    epochs=20,
    batch=64,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="cosine",
    augment=Augment(share=0.5, rotate=15, shift=1.5, scale=0.1, stroke=0.5),
)
