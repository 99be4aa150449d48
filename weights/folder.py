"""Reads the user's own classes from a folder with one subfolder per class, with the application's preprocessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from camapp.capture.images import read_image, walk_images
from camapp.core.files import natural_key
from camapp.core.image import Image
from camapp.core.image_ops import cut, make_fit
from engine.graph import Array
from engine.model_card import ModelCard
from weights import WeightsError
from weights.datasets import Dataset, Images, digest, joined
from weights.recipe import Augment, FineTuning

NAME = "folder"
MAX_CLASSES = 256
# A class with fewer images than this, or fewer than another by this factor, gives a warning.
FEW, UNBALANCED = 20, 4
VALIDATION = 0.2

# A minute on a PC for some hundred images: first only the last layer, then all layers with a low rate.
RECIPE = FineTuning(
    net="cifar10",
    data=NAME,
    start="cifar10",
    epochs=40,
    frozen=10,
    batch=16,
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="cosine",
    validation=VALIDATION,
    augment=Augment(share=0.7, rotate=15, shift=2, scale=0.15, crop=3, flip=True),
)


def load_folder(
    folder: Path,
    card: ModelCard,
    fit: str = "crop",
    warn: Callable[[str], None] = print,
    validation: float = VALIDATION,
) -> Dataset:
    """Read every image below a folder; its class is the name of the top-level subfolder.

    The last images of each class, in order of their names, are held back for validation: frames taken one after
    another resemble each other, and chance would put their like on both sides.

    Args:
        folder: holds a folder a class.
        card: gives size and colour of the net's input.
        fit: as the application will fit images: 'crop', 'letterbox' or 'stretch'.
        warn: called with each problem that makes a good result unlikely.
        validation: share of each class that is held back.

    Raises:
        WeightsError: there are not two classes with two images each.
    """
    images: dict[str, list[Array]] = {}
    bad: list[str] = []
    for name, files in files_of(folder, warn).items():
        images[name] = []
        for file in files:
            try:
                images[name].append(fitted(read_image(file), card, fit))
            except (OSError, ValueError) as error:
                bad.append(f"{file}: {getattr(error, 'strerror', None) or error}")
    check_counts(folder, {name: len(found) for name, found in images.items()}, bad, warn)
    return _split(images, validation)


def files_of(folder: Path, warn: Callable[[str], None] = print) -> dict[str, list[str]]:
    """Return the image files of each class, in order of their names; errors and warnings as for `load_folder`."""
    return {home.name: [str(file) for file in walk_images(home)] for home in _classes(folder, warn)}


def held_back(count: int, share: float) -> int:
    """Return how many of a class's images, its last ones, are for validation."""
    return min(count - 1, max(1, round(count * share)))


def _classes(folder: Path, warn: Callable[[str], None]) -> list[Path]:
    if not folder.is_dir():
        raise WeightsError(f"no folder {folder}: it should hold a folder of images for each class")
    homes = sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: natural_key(path.name),
    )
    if len(homes) > MAX_CLASSES:
        raise WeightsError(f"{folder}: {len(homes)} classes; at most {MAX_CLASSES} can be learnt")
    loose = sum(1 for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if loose:
        warn(f"{loose} files lie in {folder} itself and belong to no class")
    spellings = Counter(home.name.casefold() for home in homes)
    for home in homes:
        if spellings[home.name.casefold()] > 1:
            warn(f"class '{home.name}' differs from another only in case: are they one?")
    return homes


def check_counts(folder: Path, counts: dict[str, int], bad: Sequence[str], warn: Callable[[str], None]) -> None:
    """Warn of files that cannot be used, and of few or unbalanced images; refuse too few.

    Args:
        counts: usable images of each class.
        bad: 'file: reason' of the others.

    Raises:
        WeightsError: there are not two classes with two images each.
    """
    if bad:
        warn(f"{len(bad)} files are left out: {'; '.join(bad[:5])}{' ...' if len(bad) > 5 else ''}")
    usable = [name for name, count in counts.items() if count >= 2]
    if len(usable) < 2 or len(usable) < len(counts):
        counted = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"
        raise WeightsError(
            f"{folder}: at least two classes with two images each are needed (found {counted}); "
            "'camapp collect --label NAME' takes images"
        )
    few = [f"{name}: {count}" for name, count in counts.items() if count < FEW]
    if few:
        warn(f"few images ({', '.join(few)}): {FEW} or more of each class are better")
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] > UNBALANCED * counts[least]:
        warn(
            f"unbalanced: {counts[most]} of '{most}', but {counts[least]} of '{least}'; the rarer is missed more often"
        )


def fitted(image: Image, card: ModelCard, fit: str) -> Array:
    """Return uint8 (C, H, W), by the application's own geometry; a letterbox has bars of the card's mean."""
    channels, height, width = card.input_shape
    place = make_fit(image.size, (width, height), fit)
    u0, v0, u1, v1 = place.target
    pixels = cut(image, place.source, (u1 - u0, v1 - v0), card.colour)
    out = np.empty((channels, height, width), np.uint8)
    out[...] = np.rint(255 * np.array(card.mean))[:, None, None]
    out[:, v0:v1, u0:u1] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return out


def _split(images: dict[str, list[Array]], validation: float) -> Dataset:
    learnt, held = [], []
    for label, found in enumerate(images.values()):
        kept = held_back(len(found), validation)
        labels = np.full(len(found), label, np.uint8)
        learnt.append(Images(np.stack(found[:-kept]), labels[:-kept]))
        held.append(Images(np.stack(found[-kept:]), labels[-kept:]))
    train, judged = joined(*learnt), joined(*held)
    total = digest(joined(train, judged))
    return Dataset(NAME, tuple(images), train, judged, judged, total, measured(len(judged), len(train) + len(judged)))


def measured(judged: int, total: int) -> str:
    """Name the images that the accuracy is measured on."""
    return f"validation, last {judged} of {total} images"
