"""Makes tiny data sets in the published formats, and names the folder of the real ones."""

from __future__ import annotations

import gzip
import pickle
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
    cifar_records(count, 6).tofile(directory / "test_batch.bin")
    return folder


def write_torchvision_cifar10(folder: Path, count: int = 40) -> Path:
    """Write the batches as torchvision keeps them."""
    directory = folder / "cifar-10-batches-py"
    directory.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"], start=1):
        records = cifar_records(count, number)
        batch = {b"data": records[:, 1:].copy(), b"labels": records[:, 0].tolist(), b"batch_label": b"made"}
        (directory / name).write_bytes(pickle.dumps(batch, 2))
    return folder


def write_torchvision_mnist(folder: Path, count: int = 600) -> Path:
    """Write MNIST as torchvision keeps it, with a test set."""
    directory = folder / "MNIST" / "raw"
    directory.mkdir(parents=True)
    for name, (images, labels) in {"train": bars(count, 28), "t10k": bars(50, 28, 9)}.items():
        (directory / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (directory / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder
