"""Reads MNIST and CIFAR-10 from their published files, downloading missing ones, and makes generated signals.

Splits never move. The official test sets stay untouched: the last tenth of the training files is the test split, which
nothing is tuned on, and the validation split lies just before it.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
class Layout:
    """Describes one way in which the files of a data set lie in a folder.

    Attributes:
        homes: folders under the data folder where the files may lie, all in one.
        files: names of the training files, in order.
        test_files: names of the official test files.
        read: the files' paths to their images, in file order.
    """

    homes: tuple[str, ...]
    files: tuple[str, ...]
    test_files: tuple[str, ...]
    read: Callable[[list[Path]], Images]


@dataclass(frozen=True)
class Source:
    """Origin of a data set and the ways in which it may lie in a folder.

    Attributes:
        classes: names, in label order.
        remotes: what to download for training.
        test_remotes: what to download for the official test set.
        layouts: the first is that of the downloads, in its first home.
        unpack: makes files of the downloads, given the data folder.
        make: makes the images of a generated data set; None for one with files.
    """

    classes: tuple[str, ...]
    remotes: tuple[Remote, ...] = ()
    test_remotes: tuple[Remote, ...] = ()
    layouts: tuple[Layout, ...] = ()
    unpack: Callable[[Path], None] = lambda folder: None
    make: Callable[[], Images] | None = None


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
    source = _source(name)
    images = source.make() if source.make else _images(name, folder, False, download, progress)
    return _split(name, source.classes, images, validation)


def load_test(
    name: str, folder: Path, download: bool = True, progress: Progress = lambda done, total: None
) -> tuple[Images, str]:
    """Read the official test set, which nothing is trained or tuned on; return it with its name in words.

    Arguments and errors as for `load`.
    """
    if _source(name).make:
        raise WeightsError(f"{name} is generated and has no official test set: omit --split test")
    images = _images(name, folder, True, download, progress)
    return images, f"{name} official test set of {len(images)}"


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise WeightsError(f"no data set '{name}': there are {', '.join(SOURCES)}")
    return SOURCES[name]


def _images(name: str, folder: Path, is_test: bool, download: bool, progress: Progress) -> Images:
    source = _source(name)
    found = _found(source, folder, is_test)
    if found is None:
        first = source.layouts[0]
        if not download:
            files = first.test_files if is_test else first.files
            raise WeightsError(f"no {name} in {folder}: expected {', '.join(files)} in {folder / first.homes[0]}")
        for remote in source.test_remotes if is_test else source.remotes:
            if not (folder / remote.path).is_file():
                fetch(remote.url, folder / remote.path, remote.sha256, progress)
        source.unpack(folder)
        found = _found(source, folder, is_test)
        assert found is not None, "the downloads are the first layout's files"
    layout, paths = found
    return _checked(layout.read(paths), source.classes, paths[0].parent)


def _found(source: Source, folder: Path, is_test: bool) -> tuple[Layout, list[Path]] | None:
    for layout in source.layouts:
        for home in layout.homes:
            paths = [folder / home / file for file in (layout.test_files if is_test else layout.files)]
            if all(path.is_file() for path in paths):
                return layout, paths
    return None


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
    """Read an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Returns:
        uint8, shaped as the file says.

    Raises:
        WeightsError: not IDX, not bytes, truncated or too long.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
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
    return Images(images[:, None], labels)


def _read_cifar10(paths: list[Path]) -> Images:
    return _joined_batches([_read_cifar_batch(path) for path in paths], paths[0].parent)


def _joined_batches(batches: list[Images], where: Path) -> Images:
    if len({len(batch) for batch in batches}) > 1:
        counts = ", ".join(str(len(batch)) for batch in batches)
        raise WeightsError(f"{where}: batches of different sizes ({counts} images): one is truncated")
    return joined(*batches)


def _read_cifar_batch(path: Path) -> Images:
    """Read records of a label, then the red, green and blue planes, all bytes."""
    record = 1 + math.prod(CIFAR_SHAPE)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if not len(data) or len(data) % record:
        raise WeightsError(f"{path}: {len(data)} bytes are not whole records of {record}: truncated, or not CIFAR-10")
    records = data.reshape(-1, record)
    return Images(np.ascontiguousarray(records[:, 1:]).reshape(-1, *CIFAR_SHAPE), np.ascontiguousarray(records[:, 0]))


def _read_pickled_cifar10(paths: list[Path]) -> Images:
    return _joined_batches([_read_cifar_pickle(path) for path in paths], paths[0].parent)


def _read_cifar_pickle(path: Path) -> Images:
    """Read a batch as torchvision keeps it: a pickled dict of an array (count, 3072) and a list of labels."""
    try:
        with path.open("rb") as file:
            batch = _PlainUnpickler(file, encoding="bytes").load()
        data, labels = batch[b"data"], np.array(batch[b"labels"])
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        raise WeightsError(
            f"{path}: damaged, or no batch of CIFAR-10 ({type(error).__name__}: {error!s:.80})"
        ) from error
    fits = (
        isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape == (len(labels), math.prod(CIFAR_SHAPE))
    )
    if not fits or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0 or labels.max(initial=0) > 255:
        raise WeightsError(f"{path}: not images of 3072 bytes and a label each")
    return Images(data.reshape(-1, *CIFAR_SHAPE), labels.astype(np.uint8))


class _PlainUnpickler(pickle.Unpickler):
    """Reads arrays of numbers, lists and dicts, and refuses every other name, so that no code of the file runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")):
            return super().find_class(module, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # the module's name depends on NumPy's version
        raise pickle.UnpicklingError(f"it names {module}.{name}")


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
            for file in (*CIFAR10_FILES, CIFAR10_TEST):
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
MNIST_TRAIN = MNIST_IMAGES, MNIST_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
MNIST_TEST = MNIST_TEST_IMAGES, MNIST_TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"

CIFAR_SHAPE = (3, 32, 32)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_ARCHIVE = "cifar10/cifar-10-binary.tar.gz"
CIFAR10_HOMES = ("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", ".")
CIFAR10_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))

CIFAR10_TEST = "test_batch.bin"
CIFAR10_REMOTE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    CIFAR10_ARCHIVE,
)


def _mnist_remote(file: str, sha256: str) -> Remote:
    return Remote(f"{MNIST_ADDRESS}/{file}", sha256, f"mnist/{file}")


def _plain(*files: str) -> tuple[str, ...]:
    """Return the names of unpacked files."""
    return tuple(file.removesuffix(".gz") for file in files)


# torchvision's own folders, MNIST/raw and cifar-10-batches-py, are read as they are.
SOURCES = {
    "mnist": Source(
        classes=MNIST_CLASSES,
        remotes=(
            _mnist_remote(MNIST_IMAGES, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            _mnist_remote(MNIST_LABELS, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        ),
        test_remotes=(
            _mnist_remote(MNIST_TEST_IMAGES, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            _mnist_remote(MNIST_TEST_LABELS, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        layouts=tuple(
            Layout(("mnist", ".", "MNIST/raw", "raw"), names(*MNIST_TRAIN), names(*MNIST_TEST), _read_mnist)
            for names in (lambda *files: files, _plain)
        ),
    ),
    "cifar10": Source(
        classes=CIFAR10_CLASSES,
        remotes=(CIFAR10_REMOTE,),
        test_remotes=(CIFAR10_REMOTE,),
        layouts=(
            Layout(CIFAR10_HOMES, CIFAR10_FILES, (CIFAR10_TEST,), _read_cifar10),
            Layout(
                ("cifar10/cifar-10-batches-py", "cifar-10-batches-py", "."),
                tuple(f"data_batch_{number}" for number in range(1, 6)),
                ("test_batch",),
                _read_pickled_cifar10,
            ),
        ),
        unpack=_unpack_cifar10,
    ),
    "signals": Source(classes=CLASSES, make=lambda: Images(*signals())),
}
