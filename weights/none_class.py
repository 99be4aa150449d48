"""Adds to a trained classifier what is none of its classes: one class more, on the features before its last layer.

The score of that class is subtracted from all others. That leaves their softmax, and so the labels, as they are; and
their energy becomes the log-odds of showing one of the classes, by which `camapp.tasks.rejection` refuses images.
"""

from __future__ import annotations

import numpy as np

from camapp.core.arrays import Floats
from camapp.tasks.rejection import energy
from engine.graph import Array
from engine.model import Model
from weights import WeightsError
from weights.datasets import Images
from weights.evaluate import normalised
from weights.features import backbone_of
from weights.logistic import fit_logistic
from weights.outliers import outliers
from weights.softmax import Layer

# Share of the generated images that hold large parts of the classes' own things.
NEAR = 0.5
# Weight of the squared coefficients, as a share of the number of images. A weaker one fits the generated images better
# and refuses fewer photographs.
DECAY = 0.0125
_BATCH = 100


def fitted_layer(model: Model, images: Images, seed: int) -> dict[str, Array]:
    """Return the parameters of the last layer with the score of the added class subtracted.

    Args:
        model: a classifier with a fully connected last layer.
        images: from its training; those that it labels right are its own, and as many are generated from them.
        seed: of the generated images.

    Raises:
        WeightsError: the net has no such layer, or its energy is not higher for its own images.
    """
    backbone = backbone_of(model)
    names = backbone.head.inputs[1:3]
    layer = Layer(*(np.asarray(model.graph.initializers[name], np.float32) for name in names))
    own = _features(backbone.model, images.images)
    own = own[layer(own).argmax(axis=1) == images.labels]
    others = _features(backbone.model, outliers(images, len(images), seed, NEAR))
    found = np.concatenate([own, others]).astype(np.float64)
    inputs = np.column_stack([energy(layer(found)), found])
    mean, std = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    constant = np.ones((len(inputs), 1))
    is_own = np.arange(len(inputs)) < len(own)
    *slopes, offset = fit_logistic(np.hstack([(inputs - mean) / std, constant]), is_own, DECAY * len(inputs))
    of_energy, *of_features = slopes / std
    if of_energy <= 0:
        raise WeightsError("the model's energy is no higher for its own images than for others: nothing can be added")
    added = np.array(of_features) / of_energy
    level = offset / of_energy - mean[0] - added @ mean[1:]
    weight, bias = names
    return {weight: (layer.weight + added).astype(np.float32), bias: (layer.bias + level).astype(np.float32)}


def _features(model: Model, images: Array) -> Floats:
    parts = [
        np.array(model.run(normalised(images[start : start + _BATCH], model.card)))
        for start in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts)
