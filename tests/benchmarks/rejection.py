"""Prints how often models label what they do not know: `python -m tests.benchmarks.rejection DATA PICTURES`.

DATA holds CIFAR-10 and MNIST; PICTURES any images without CIFAR's classes and without digits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camapp.capture.images import read_image, walk_images
from camapp.commands.classify.job import FilesJob, FilesOptions
from camapp.core.models import model_path
from camapp.tasks.rejection import Rejection
from camapp.tasks.task import TaskOptions
from engine.graph import Array
from engine.model import Model, load
from tests.benchmarks.common import benchmark_parser, print_conditions
from weights.datasets import load as load_data
from weights.evaluate import normalised
from weights.outliers import outliers
from weights.written import read_scenes

SHARES = (0.0, 0.01, 0.02, 0.05)
COUNT, BATCH = 1000, 50


def _logits(model: Model, inputs: Array) -> Array:
    return np.concatenate(
        [np.array(model.run(inputs[start : start + BATCH])) for start in range(0, len(inputs), BATCH)]
    )


def main() -> None:
    """Print a line for each model and setting."""
    parser = benchmark_parser()
    parser.add_argument("data", type=Path, help="folder with CIFAR-10 and MNIST")
    parser.add_argument("pictures", type=Path, help="images without CIFAR's classes and without digits")
    options = parser.parse_args()
    data, pictures = options.data, options.pictures
    print_conditions()
    cifar = load_data("cifar10", data, download=False).test[:COUNT]
    made = outliers(cifar, COUNT, 3)
    files = [file for file in walk_images(pictures) if read_image(file)]
    for name in ("objects", "cifar10"):
        model = load(model_path(name))
        own, others = (_logits(model, normalised(images, model.card)) for images in (cifar.images, made))
        for share in SHARES:
            rejection = Rejection(model.card, share)
            right = np.mean((own.argmax(axis=1) == cifar.labels) & rejection.accepts(own))
            job = FilesJob(model, FilesOptions(TaskOptions(smoothing=0, reject=share), 1, "none", (), name))
            named = np.mean([bool(row.prediction and row.prediction.label) for row in job.rows(files)])
            print(
                f"{name} --reject {share:g}: {right:.1%} right; labels {rejection.accepts(others).mean():.1%} of "
                f"generated images and {named:.1%} of {len(files)} pictures"
            )
    model = load(model_path("digits"))
    for share in (0.0, 0.01):
        job = FilesJob(model, FilesOptions(TaskOptions(smoothing=0, reject=share), 1, "none", (), "digits"))
        read = sum(bool(row.prediction and row.prediction.label) for row in job.rows(files))
        print(f"digits --reject {share:g}: digits in {read} of {len(files)} pictures")
    print(f"digits on paper: {read_scenes(model, load_data('mnist', data, download=False).test[:COUNT])}")


if __name__ == "__main__":
    main()
