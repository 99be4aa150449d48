"""The object net on CIFAR-10 alone: one cycle of the learning rate; images mirrored, shifted and partly covered.

Under an hour on one CPU core with AVX-512 BF16, about two hours on one without.
"""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    title="objects_plain",
    net="objects",
    data="cifar10",
    epochs=24,
    batch=256,
    learning_rate=0.2,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one_cycle",
    label_smoothing=0.1,
    precision="bfloat16",
    storage="float16",
    validation=0.04,
    augment=Augment(crop=4, flip=True, erase=8),
)
