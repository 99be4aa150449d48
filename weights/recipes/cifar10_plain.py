"""S3's net on CIFAR-10. As published (about 70 %): SGD 0.01, batch 16, 30 epochs, no augmentation.

Momentum, a decaying rate and mirrored, shifted images let the same net learn for longer before it overfits.
"""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    title="cifar10_plain",
    net="cifar10",
    data="cifar10",
    epochs=40,
    batch=64,
    learning_rate=0.03,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="cosine",
    augment=Augment(crop=3, flip=True),
)
