"""The CIFAR ResNets. As published: SGD 0.1, batch 128, 64,000 steps, the rate cut twice, mirrored and shifted images.

A third of the steps, by one cycle; resnet20 takes about two hours on a CPU core with AVX-512 BF16.
"""

from weights.recipe import Augment, Recipe

RECIPES = tuple(
    Recipe(
        net=f"resnet{depth}",
        data="cifar10",
        epochs=60,
        batch=128,
        learning_rate=0.2,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="one_cycle",
        precision="bfloat16",
        validation=0.04,
        augment=Augment(crop=4, flip=True),
    )
    for depth in (20, 32, 44, 56)
)
