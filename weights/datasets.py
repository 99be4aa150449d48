"""Reads MNIST and CIFAR-10 from their published files, downloading missing ones, and makes generated signals.

Splits never move. The official test sets stay untouched: the last tenth of the training files is the test split, which
nothing is tuned on, and the validation split lies just before it.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camapp.system.download import Progress, fetch
from engine.graph import Array
from weights import WeightsError
from weights.signals import CLASSES, signals

TEST_SHARE = 0.1
MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class Images:
    """Labelled images: `images` uint8 (count, channels, height, width), `labels` uint8 (count,).

    Signals in one dimension go the same way: `images` float32 (count, channels, length), on any scale.
    """

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: slice) -> Images:
        return Images(self.images[which], self.labels[which])

    def fitted(self, shape: tuple[int, ...]) -> Images:
        """Return the images padded with zeros to a net's (C, H, W) input, centred.

        Raises:
            WeightsError: other channels, larger images, or a border that cannot be even.
        """
        spare = [want - have for want, have in zip(shape, self.images.shape[1:], strict=True)]
        if spare[0] or any(extra < 0 or extra % 2 for extra in spare):
            raise WeightsError(f"images of {self.images.shape[1:]} do not fit a net that takes {shape}")
        borders = [(0, 0), *((extra // 2, extra // 2) for extra in spare)]
        return Images(np.pad(self.images, borders), self.labels) if any(spare) else self


@dataclass(frozen=True)
class Dataset:
    """A data set and its splits.

    Attributes:
        name: as in `SOURCES`.
        classes: names, in label order.
        train: what a net learns from.
        validation: what chooses its checkpoint.
        test: what its accuracy is measured on, and nothing else.
        sha256: of all images and labels, in file order.
        measured: the test split in words.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    sha256: str
    measured: str


@dataclass(frozen=True)
class Remote:
    """A published file: its address, its checksum, and its path below the data folder."""

    url: str
    sha256: str
    path: str


@dataclass(frozen=True)
class Source:
    """Origin of a data set and the function that reads its files.

    Attributes:
        classes: names, in label order.
        remotes: what to download.
        unpack: makes `files` of the downloads, given the data folder.
        homes: folders under the data folder where `files` may lie, the first being where downloads put them.
        files: names, all in one home.
        read: the files' paths to all images in file order.
    """

    classes: tuple[str, ...]
    remotes: tuple[Remote, ...]
    homes: tuple[str, ...]
    files: tuple[str, ...]
    read: Callable[[list[Path]], Images]
    unpack: Callable[[Path], None] = lambda folder: None


def load(
    name: str,
    folder: Path,
    validation: float = 0.1,
    download: bool = True,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """Read a data set; missing files are downloaded.

    Args:
        name: one of `SOURCES`.
        folder: holds the files, or a subfolder named after the data set does.
        validation: part of what is not test that is held back from training.
        download: False to refuse where files are missing.
        progress: called with the progress of the download.

    Raises:
        WeightsError: unknown name, files missing or damaged.
        DownloadError: files not downloadable.
    """
    if name not in SOURCES:
        raise WeightsError(f"no data set '{name}': there are {', '.join(SOURCES)}")
    source = SOURCES[name]
    home = _home(source, folder)
    if home is None:
        if not download:
            raise WeightsError(
                f"no {name} in {folder}: expected {', '.join(source.files)} in {folder / source.homes[0]}"
            )
        _download(source, folder, progress)
        home = folder / source.homes[0]
    images = source.read([home / file for file in source.files])
    return _split(name, source.classes, images, validation)


def _home(source: Source, folder: Path) -> Path | None:
    for home in source.homes:
        if all((folder / home / file).is_file() for file in source.files):
            return folder / home
    return None


def _download(source: Source, folder: Path, progress: Progress) -> None:
    for remote in source.remotes:
        if not (folder / remote.path).is_file():
            fetch(remote.url, folder / remote.path, remote.sha256, progress)
    source.unpack(folder)


def _split(name: str, classes: tuple[str, ...], images: Images, validation: float) -> Dataset:
    count = len(images)
    test_from = count - round(count * TEST_SHARE)
    train_to = test_from - round(test_from * validation)
    if not 0 < train_to < test_from < count:
        raise WeightsError(f"{name}: {count} images are too few to split into train, validation and test")
    test = images[test_from:]
    measured = f"{name} test split, last {len(test)} of train"
    return Dataset(name, classes, images[:train_to], images[train_to:test_from], test, digest(images), measured)


def joined(*parts: Images) -> Images:
    """Concatenate them."""
    return Images(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def digest(images: Images) -> str:
    """Return the sha256 of images and labels in hex."""
    total = hashlib.sha256(images.images.data)
    total.update(images.labels.data)
    return total.hexdigest()


def read_idx(path: Path) -> Array:
    """Read a gzipped IDX file of unsigned bytes.

    Returns:
        uint8, shaped as the file says.

    Raises:
        WeightsError: not IDX, not bytes, truncated or too long.
    """
    try:
        with gzip.open(path) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
                raise WeightsError(f"{path}: not an IDX file of bytes (begins {magic.hex() or 'with nothing'})")
            shape = tuple(int.from_bytes(file.read(4), "big") for _ in range(magic[3]))
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise WeightsError(f"{path}: its header says {shape}, more than the {MAX_BYTES} bytes allowed")
            data = file.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise WeightsError(f"{path}: damaged or truncated ({error}): remove it to download it again") from error
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) != size:
        found = "more" if len(data) > size else str(len(data))
        raise WeightsError(f"{path}: its header says {shape}, {size} bytes, but it holds {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_mnist(paths: list[Path]) -> Images:
    images, labels = (read_idx(path) for path in paths)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise WeightsError(f"{paths[0].parent}: images {images.shape} and labels {labels.shape} do not belong together")
    return _checked(Images(images[:, None], labels), MNIST_CLASSES, paths[1])


def _read_cifar10(paths: list[Path]) -> Images:
    batches = [_read_cifar_batch(path) for path in paths]
    if len({len(batch) for batch in batches}) > 1:
        counts = ", ".join(str(len(batch)) for batch in batches)
        raise WeightsError(f"{paths[0].parent}: batches of different sizes ({counts} images): one is truncated")
    records = np.concatenate(batches)
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, *CIFAR_SHAPE)
    return _checked(Images(images, np.ascontiguousarray(records[:, 0])), CIFAR10_CLASSES, paths[0].parent)


def _read_cifar_batch(path: Path) -> Array:
    """Read (count, 3073) uint8: a label, then the red, green and blue planes."""
    record = 1 + math.prod(CIFAR_SHAPE)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if not len(data) or len(data) % record:
        raise WeightsError(f"{path}: {len(data)} bytes are not whole records of {record}: truncated, or not CIFAR-10")
    return data.reshape(-1, record)


def _checked(images: Images, classes: tuple[str, ...], where: Path) -> Images:
    if not len(images):
        raise WeightsError(f"{where}: holds no images")
    highest = int(images.labels.max())
    if highest >= len(classes):
        raise WeightsError(f"{where}: label {highest} found, but there are {len(classes)} classes")
    return images


def _unpack_cifar10(folder: Path) -> None:
    """Extract the batches, and nothing else, from the archive."""
    archive = folder / CIFAR10_ARCHIVE
    home = folder / CIFAR10_HOMES[0]
    home.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for file in CIFAR10_FILES:
                member = tar.extractfile(f"cifar-10-batches-bin/{file}")
                if member is None:
                    raise WeightsError(f"{archive}: {file} in it is not a file")
                part = home / f"{file}.part"
                part.write_bytes(member.read())
                os.replace(part, home / file)
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise WeightsError(f"{archive}: damaged ({error}): remove it to download it again") from error
    except OSError as error:
        raise WeightsError(f"cannot unpack {archive}: {error.strerror or error}") from error


MNIST_CLASSES = tuple("0123456789")
MNIST_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST_IMAGES, MNIST_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"

CIFAR_SHAPE = (3, 32, 32)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_ARCHIVE = "cifar10/cifar-10-binary.tar.gz"
CIFAR10_HOMES = ("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", ".")
CIFAR10_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))

SOURCES = {
    "mnist": Source(
        classes=MNIST_CLASSES,
        remotes=(
            Remote(
                f"{MNIST_ADDRESS}/{MNIST_IMAGES}",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                f"mnist/{MNIST_IMAGES}",
            ),
            Remote(
                f"{MNIST_ADDRESS}/{MNIST_LABELS}",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                f"mnist/{MNIST_LABELS}",
            ),
        ),
        homes=("mnist", "."),
        files=(MNIST_IMAGES, MNIST_LABELS),
        read=_read_mnist,
    ),
    "cifar10": Source(
        classes=CIFAR10_CLASSES,
        remotes=(
            Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                CIFAR10_ARCHIVE,
            ),
        ),
        homes=CIFAR10_HOMES,
        files=CIFAR10_FILES,
        read=_read_cifar10,
        unpack=_unpack_cifar10,
    ),
    "signals": Source(classes=CLASSES, remotes=(), homes=(".",), files=(), read=lambda files: Images(*signals())),
}
