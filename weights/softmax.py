"""Fits a softmax regression in NumPy: the last layer of a net on the features before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

# Weight decays that are tried, from strong to weak.
DECAYS = tuple(10.0 ** (-power / 2) for power in range(2, 13))
# Weaker decays that are still tried after the validation loss has risen.
PATIENCE = 2
# L-BFGS: pairs that stand for the curvature, iterations, and the gradient at which it has converged.
MEMORY, ITERATIONS, TOLERANCE = 10, 200, 1e-5


@dataclass(frozen=True)
class Layer:
    """A linear layer; scores are `features @ weight.T + bias`.

    Attributes:
        weight: float32 (classes, features).
        bias: float32 (classes,).
    """

    weight: Floats
    bias: Floats

    def __call__(self, features: Floats) -> Floats:
        """Return the scores (count, classes) of features (count, features)."""
        scores: Floats = features @ self.weight.T + self.bias
        return scores


@dataclass(frozen=True)
class Step:
    """Result of one weight decay. Losses are mean cross-entropy, accuracies are 0..1."""

    decay: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    is_best: bool


def fit_path(
    train: tuple[Floats, Ints],
    validation: tuple[Floats, Ints],
    classes: int,
    report: Callable[[Step], None] = lambda step: None,
    decays: Sequence[float] = DECAYS,
) -> tuple[Layer, Step]:
    """Fit one layer for each weight decay, from strong to weak, and keep that of least validation loss.

    Each starts from the one before. The path ends early, once the validation loss has risen `PATIENCE` times in a row.

    Args:
        train: features (count, features) and labels (count,); the features are scaled here, not by the caller.
        validation: the same for the images that choose the decay.
    """
    mean = train[0].mean(axis=0)
    # One scale for all features: a scale of its own would give a feature that is nearly always 0 the most weight.
    scale = float(np.sqrt(np.square(train[0] - mean).sum(axis=1).mean())) or 1.0
    inputs = ((train[0] - mean) / scale).astype(np.float32)
    judged = ((validation[0] - mean) / scale).astype(np.float32)
    parameters = np.zeros((classes, inputs.shape[1] + 1))
    best: tuple[Layer, Step] | None = None
    rises = 0
    for decay in decays:
        parameters = _minimise(parameters, inputs, train[1], decay)
        layer = Layer(parameters[:, :-1].astype(np.float32), parameters[:, -1].astype(np.float32))
        found = (*judge(layer(inputs), train[1]), *judge(layer(judged), validation[1]))
        is_best = best is None or found[2] < best[1].validation_loss
        step = Step(decay, *found, is_best)
        report(step)
        if is_best:
            weight = layer.weight / np.float32(scale)
            best = Layer(weight, layer.bias - weight @ mean.astype(np.float32)), step
        rises = 0 if is_best else rises + 1
        if rises >= PATIENCE:
            break
    assert best is not None
    return best


def judge(scores: Floats, labels: Ints) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy of scores (count, classes)."""
    logs = scores - scores.max(axis=1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    loss = -logs[np.arange(len(labels)), labels].mean()
    return float(loss), float((scores.argmax(axis=1) == labels).mean())


def _minimise(start: Floats, inputs: Floats, labels: Ints, decay: float) -> Floats:
    """Return parameters (classes, features + 1) of least loss, by L-BFGS with a backtracking line search."""
    point = start.ravel()
    value, slope = _loss(point, inputs, labels, decay)
    pairs: deque[tuple[Floats, Floats]] = deque(maxlen=MEMORY)
    for _ in range(ITERATIONS):
        if np.abs(slope).max() <= TOLERANCE:
            break
        direction = _direction(slope, pairs)
        descent = float(direction @ slope)
        length = 1.0 if pairs else min(1.0, 1.0 / float(np.abs(slope).sum()))
        for _ in range(30):
            there = point + length * direction
            new_value, new_slope = _loss(there, inputs, labels, decay)
            if new_value <= value + 1e-4 * length * descent:
                break
            length /= 2
        else:
            break  # as far as the precision of the sums goes
        step, change = there - point, new_slope - slope
        # The loss is convex, so only rounding makes this product anything but positive.
        if step @ change > 1e-12:
            pairs.append((step, change))
        point, value, slope = there, new_value, new_slope
    return point.reshape(start.shape)


def _direction(slope: Floats, pairs: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Return minus the inverse curvature times the gradient: the two-loop recursion of L-BFGS."""
    result = -slope
    factors = []
    for step, change in reversed(pairs):
        factor = (step @ result) / (step @ change)
        result = result - factor * change
        factors.append(factor)
    if pairs:
        step, change = pairs[-1]
        result = result * ((step @ change) / (change @ change))
    for (step, change), factor in zip(pairs, reversed(factors), strict=True):
        result = result + (factor - (change @ result) / (step @ change)) * step
    return result


def _loss(point: Floats, inputs: Floats, labels: Ints, decay: float) -> tuple[float, Floats]:
    """Return the loss with weight decay (not of the biases), and its gradient.

    The products are float32, which is twice as fast; parameters and sums are float64.
    """
    count, width = inputs.shape
    parameters = point.reshape(-1, width + 1)
    weight = parameters[:, :-1]
    scores = (inputs @ weight.T.astype(np.float32) + parameters[:, -1].astype(np.float32)).astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    shares = np.exp(scores)
    sums = shares.sum(axis=1, keepdims=True)
    value = float((np.log(sums[:, 0]) - scores[np.arange(count), labels]).mean())
    shares /= sums
    shares[np.arange(count), labels] -= 1
    shares /= count
    slope = np.empty_like(parameters)
    slope[:, :-1] = shares.T.astype(np.float32) @ inputs + decay * weight
    slope[:, -1] = shares.sum(axis=0)
    return value + 0.5 * decay * float(np.square(weight).sum()), slope.ravel()
