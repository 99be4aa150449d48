"""S4's small net on CIFAR-10. As published (about 55 %): SGD 0.001, momentum 0.9, batch 4, 2 epochs."""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    net="cifar_small",
    data="cifar10",
    epochs=60,
    batch=64,
    learning_rate=0.02,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="cosine",
    augment=Augment(crop=2, flip=True),
)
