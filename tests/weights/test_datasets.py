import gzip
import io
import pickle
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.weights.made_data import (
    SHARED,
    bars,
    cifar_records,
    idx,
    write_cifar10,
    write_mnist,
    write_torchvision_cifar10,
    write_torchvision_mnist,
)
from weights import WeightsError, datasets
from weights.datasets import Images, load, load_test, read_idx

IMAGES, LABELS = "mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz"


def test_mnist_is_read_in_file_order(tmp_path):
    data = load("mnist", write_mnist(tmp_path, 600), download=False)
    images, labels = bars(600, 28)
    together = [
        np.concatenate([getattr(split, field) for split in (data.train, data.validation, data.test)])
        for field in ("images", "labels")
    ]
    assert np.array_equal(together[0], images[:, None])
    assert np.array_equal(together[1], labels)
    assert data.classes == tuple("0123456789")


def test_cifar10_is_read_as_planes_in_the_order_of_its_batches(tmp_path):
    data = load("cifar10", write_cifar10(tmp_path, 40), download=False)
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert np.array_equal(data.train.images[45].reshape(-1), cifar_records(40, seed=2)[5, 1:])
    assert data.train.labels[45] == cifar_records(40, seed=2)[5, 0]
    assert data.classes[3] == "cat"


def test_the_files_may_be_in_the_given_folder(tmp_path):
    write_mnist(tmp_path)
    assert len(load("mnist", tmp_path / "mnist", download=False).test) == 60


def test_the_test_split_is_always_the_same(tmp_path):
    data = load("mnist", write_mnist(tmp_path, 600), validation=0.2, download=False)
    assert [len(data.train), len(data.validation), len(data.test)] == [432, 108, 60]
    again = load("mnist", tmp_path, validation=0.1, download=False)
    assert np.array_equal(data.test.images, again.test.images)
    assert data.sha256 == again.sha256


def test_torchvision_s_folders_are_read_as_they_are(tmp_path):
    write_torchvision_cifar10(tmp_path / "a")
    write_torchvision_mnist(tmp_path / "a")
    assert (
        load("cifar10", tmp_path / "a", download=False).sha256 == load("cifar10", write_cifar10(tmp_path / "b")).sha256
    )
    assert load("mnist", tmp_path / "a", download=False).sha256 == load("mnist", write_mnist(tmp_path / "b")).sha256
    assert len(load("mnist", tmp_path / "a" / "MNIST", download=False).test) == 60
    assert len(load("cifar10", tmp_path / "a" / "cifar-10-batches-py", download=False).test) == 20


def test_the_official_test_set_is_read_by_name(tmp_path):
    for write in (write_torchvision_cifar10, write_cifar10):
        images, name = load_test("cifar10", write(tmp_path / write.__name__), download=False)
        assert np.array_equal(images.images.reshape(40, -1), cifar_records(40, seed=6)[:, 1:])
        assert name == "cifar10 official test set of 40"
    images, name = load_test("mnist", write_torchvision_mnist(tmp_path), download=False)
    assert np.array_equal(images.labels, bars(50, 28, 9)[1])
    with pytest.raises(WeightsError, match=r"no mnist in .*: expected t10k-images-idx3-ubyte\.gz"):
        load_test("mnist", tmp_path / "absent", download=False)
    with pytest.raises(WeightsError, match="is generated and has no official test set"):
        load_test("signals", tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Evil(), r"damaged, or no batch of CIFAR-10 .*it names .*print"),
        ({b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, Evil()]}, r"it names .*print"),
        ({b"data": np.zeros((3, 3072), np.uint8)}, "damaged, or no batch"),
        ({b"data": np.zeros((3, 3072), np.uint8), b"labels": [1, 2]}, "not images of 3072 bytes and a label each"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]}, "not images of 3072 bytes"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [-1, 2]}, "not images of 3072 bytes"),
        ([1, 2], "damaged, or no batch"),
    ],
)
def test_a_foreign_pickle_is_refused_and_runs_nothing(tmp_path, batch, message, capsys):
    write_torchvision_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(WeightsError, match=message):
        load("cifar10", tmp_path, download=False)
    assert capsys.readouterr().out == ""


def test_a_cut_off_pickle_is_refused(tmp_path):
    write_torchvision_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged, or no batch of CIFAR-10"):
        load("cifar10", tmp_path, download=False)


def test_too_few_images_raise_an_error(tmp_path):
    with pytest.raises(WeightsError, match="4 images are too few"):
        load("mnist", write_mnist(tmp_path, 4), download=False)


def test_the_error_lists_missing_files(tmp_path):
    with pytest.raises(WeightsError, match=r"no cifar10 in .*data_batch_1\.bin.*cifar10/cifar-10-batches-bin"):
        load("cifar10", tmp_path, download=False)


def test_an_unknown_data_set_raises_an_error(tmp_path):
    with pytest.raises(WeightsError, match="no data set 'imagenet': there are mnist, cifar10"):
        load("imagenet", tmp_path)


# Without a time stamp: the test IDs must be equal in all parallel test processes.
packed = partial(gzip.compress, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of bytes"),
        (packed(b""), "not an IDX file of bytes"),
        (b"no gzip at all", "damaged or truncated"),
        (packed(b"\0\0\x0d\x01\0\0\0\0"), "not an IDX file of bytes .begins 00000d01"),
        (packed(idx(np.zeros((3, 4), np.uint8)))[:-9], "damaged or truncated"),
        (packed(idx(np.zeros((3, 4), np.uint8))[:-1]), "12 bytes, but it holds 11"),
        (packed(idx(np.zeros((3, 4), np.uint8)) + b"x"), "12 bytes, but it holds more"),
        (packed(b"\0\0\x08\x03" + b"\xff" * 12), "more than the 268435456 bytes allowed"),
    ],
)
def test_a_damaged_idx_file_raises_an_error(tmp_path, content, message):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_different_numbers_of_images_and_labels_raise_an_error(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / LABELS).write_bytes(gzip.compress(idx(np.zeros(7, np.uint8))))
    with pytest.raises(WeightsError, match="do not belong together"):
        load("mnist", tmp_path)


def test_a_label_outside_the_classes_raises_an_error(tmp_path):
    write_mnist(tmp_path, 20)
    (tmp_path / LABELS).write_bytes(gzip.compress(idx(np.full(20, 10, np.uint8))))
    with pytest.raises(WeightsError, match="label 10 found, but there are 10 classes"):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("keep", "message"),
    [(3073 * 39 + 5, "not whole records"), (3073 * 39, "one is truncated"), (0, "not whole records")],
)
def test_a_truncated_cifar_batch_raises_an_error(tmp_path, keep, message):
    write_cifar10(tmp_path, 40)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=message):
        load("cifar10", tmp_path, download=False)


def test_only_the_batches_of_a_cifar_archive_are_extracted(tmp_path):
    made = write_cifar10(tmp_path / "made", 40)
    archive = tmp_path / "data" / datasets.CIFAR10_ARCHIVE
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made / "cifar-10-batches-bin", "cifar-10-batches-bin")
        escaping = tarfile.TarInfo("../../escaped.txt")
        escaping.size = 3
        tar.addfile(escaping, io.BytesIO(b"sly"))
    data = load("cifar10", tmp_path / "data")
    assert data.sha256 == load("cifar10", made).sha256
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_cifar_archive_raises_an_error(tmp_path):
    archive = tmp_path / datasets.CIFAR10_ARCHIVE
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"not a tar")
    with pytest.raises(WeightsError, match=r"cifar-10-binary.tar.gz: damaged .*remove it"):
        load("cifar10", tmp_path)


def test_small_images_are_padded_with_zeros_on_all_sides():
    images = Images(np.ones((2, 1, 28, 28), np.uint8), np.zeros(2, np.uint8)).fitted((1, 32, 32))
    assert images.images.shape == (2, 1, 32, 32)
    assert images.images[:, :, 2:-2, 2:-2].all()
    assert images.images.sum() == 2 * 28 * 28


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 27, 28), (1, 28, 31)])
def test_images_that_do_not_fit_raise_an_error(shape):
    with pytest.raises(WeightsError, match="do not fit"):
        Images(np.ones((2, 1, 28, 28), np.uint8), np.zeros(2, np.uint8)).fitted(shape)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the real MNIST is not on this machine")
def test_the_real_mnist():
    data = load("mnist", SHARED, download=False)
    assert [len(data.train), len(data.validation), len(data.test)] == [48_600, 5_400, 6_000]
    assert list(data.train.labels[:5]) == [5, 0, 4, 1, 9]


def test_every_source_has_complete_checksums():
    for source in datasets.SOURCES.values():
        for remote in (*source.remotes, *source.test_remotes):
            assert len(bytes.fromhex(remote.sha256)) == 32
            assert remote.url.startswith("https://")
            assert not Path(remote.path).is_absolute()
