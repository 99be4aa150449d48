"""Makes tiny data sets in the published formats, and names the folder of the real ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    """Return the bytes of an uncompressed IDX file."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def bars(count: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images that a net learns quickly: a bright row whose height is the label."""
    labels = np.random.default_rng(seed).integers(0, 10, count).astype(np.uint8)
    images = np.zeros((count, side, side), np.uint8)
    rows = 2 * labels.astype(int) + 3
    images[np.arange(count), rows, 4:-4] = 255
    images[np.arange(count), rows + 1, 4:-4] = 255
    return images, labels


def write_mnist(folder: Path, count: int = 600) -> Path:
    images, labels = bars(count, 28)
    directory = folder / "mnist"
    directory.mkdir(parents=True)
    (directory / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), 1))
    (directory / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels), 1))
    return folder


def cifar_records(count: int, seed: int = 0) -> np.ndarray:
    """Return records (count, 3073) uint8, as in a batch file."""
    images, labels = bars(count, 32, seed)
    return np.concatenate([labels[:, None], np.tile(images.reshape(count, -1), 3)], axis=1)


def write_cifar10(folder: Path, count: int = 40) -> Path:
    directory = folder / "cifar-10-batches-bin"
    directory.mkdir(parents=True)
    for number in range(1, 6):
        cifar_records(count, number).tofile(directory / f"data_batch_{number}.bin")
    return folder
