"""Plots of a training run and its result, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from weights import WeightsError
from weights.datasets import Images
from weights.train import Epoch
from weights.train_track import TrackEpoch


def curves(history: Sequence[Epoch], best: Epoch, title: str, path: Path) -> Path:
    """Plot loss and accuracy of both splits by epoch, and mark the best checkpoint."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title)
    numbers = [epoch.number for epoch in history]
    for axes, kind, unit in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("cross-entropy", "share right"), strict=True
    ):
        for split in ("train", "validation"):
            axes.plot(numbers, [getattr(epoch, f"{split}_{kind}") for epoch in history], ".-", label=split)
        axes.axvline(best.number, color="grey", linestyle=":", label=f"kept: epoch {best.number}")
        axes.set(xlabel="epoch", ylabel=f"{kind} ({unit})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return _save(figure, path)


def track_curves(history: Sequence[TrackEpoch], best: TrackEpoch, title: str, path: Path) -> Path:
    """Plot the loss and the accuracy of the cells by epoch, and mark the best checkpoint."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title)
    numbers = [epoch.number for epoch in history]
    panels = (("loss", ("train_loss", "validation_loss")), ("share of cells", ("precision", "recall")))
    for axes, (label, fields) in zip(figure.subplots(1, 2), panels, strict=True):
        for field in fields:
            axes.plot(numbers, [getattr(epoch, field) for epoch in history], ".-", label=field.replace("_loss", ""))
        axes.axvline(best.number, color="grey", linestyle=":", label=f"kept: epoch {best.number}")
        # The loss of the first epochs is a hundred times that of the last ones.
        axes.set(xlabel="epoch", ylabel=label, yscale="log" if label == "loss" else "linear")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    return _save(figure, path)


def confusion(matrix: NDArray[Any], classes: Sequence[str], title: str, path: Path) -> Path:
    """Plot the confusion matrix: one row per true class, coloured by share, with counts."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=45, ha="right")
    axes.set_yticks(places, classes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row in places:
        for column in places:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="share of the true class")
    return _save(figure, path)


def grid(images: Images, predicted: Sequence[int], classes: Sequence[str], title: str, path: Path) -> Path:
    """Plot up to 16 images or signals with their predictions: green if correct, else red with the truth."""
    figure = Figure(figsize=(7, 8), layout="constrained")
    figure.suptitle(title)
    for axes in (places := figure.subplots(4, 4).ravel()):
        axes.set_axis_off()
    for axes, image, truth, label in zip(places, images.images, images.labels, predicted, strict=False):
        _show(axes, image)
        is_right = label == truth
        text = classes[label] if is_right else f"{classes[label]} (is {classes[truth]})"
        axes.set_title(text, color="green" if is_right else "red", fontsize=9)
    return _save(figure, path)


def _show(axes: Any, image: NDArray[Any]) -> None:
    if image.ndim == 2:
        axes.plot(image[0], linewidth=0.8)
    elif len(image) == 1:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image.transpose(1, 2, 0))


def _save(figure: Figure, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    return path
