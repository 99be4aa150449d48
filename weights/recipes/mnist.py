"""S0's net on MNIST. As published: SGD 0.01, momentum 0.5, 5 epochs, no augmentation.

It is the live app's first model, so part of the images are turned, resized and given other pens, as a camera
sees digits; that needs a longer, decaying schedule to lose nothing on clean digits.
"""

from weights.recipe import Augment, Recipe

RECIPE = Recipe(
    net="mnist",
    data="mnist",
    epochs=30,
    batch=64,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="cosine",
    augment=Augment(share=0.5, rotate=15, shift=1.5, scale=0.1, stroke=0.5),
)
