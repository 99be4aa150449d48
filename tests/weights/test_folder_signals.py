"""One's own signals: read, split by class, trained on, and measured."""

import numpy as np
import pytest

import engine.model
import engine.nets
from tests.weights.test_command_line import weights
from weights import WeightsError
from weights.folder_signals import load_signals, read_names, recipe_for


def fill(folder, count=60, channels=2, length=50, classes=3, dtype=np.float64):
    """Write signals whose class is their frequency, sorted by class."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(count) % classes)
    time = np.arange(length) / length
    waves = np.sin(2 * np.pi * (2 + 4 * labels[:, None, None]) * time + rng.uniform(0, 6, (count, channels, 1)))
    np.save(folder / "data.npy", (waves + 0.1 * rng.standard_normal(waves.shape)).astype(dtype))
    np.save(folder / "label.npy", labels)
    return folder


def load(folder, *arguments):
    said = []
    return load_signals(folder, *arguments, warn=said.append), said


def test_double_precision_is_converted_and_said_once(tmp_path):
    data, said = load(fill(tmp_path))
    assert data.train.images.dtype == np.float32
    assert said == [f"{tmp_path / 'data.npy'}: float64 was converted to float32"]
    assert load(fill(tmp_path, dtype=np.float32))[1] == []


def test_each_class_is_split_in_file_order(tmp_path):
    data, _ = load(fill(tmp_path))
    assert [np.bincount(part.labels).tolist() for part in (data.train, data.validation, data.test)] == [
        [14] * 3, [2] * 3, [4] * 3
    ]  # fmt: skip
    assert data.measured == "folder-signals test split, last 12 of 60 signals, by class"
    whole = np.load(tmp_path / "data.npy").astype(np.float32)
    assert np.array_equal(data.test.images[:4], whole[16:20])
    assert data.classes == ("0", "1", "2")


def test_classes_have_the_given_names_or_those_of_a_file(tmp_path):
    fill(tmp_path)
    (tmp_path / "classes.txt").write_text("slow\nmiddle\nfast\n")
    assert load(tmp_path)[0].classes == ("slow", "middle", "fast")
    assert load(tmp_path, read_names("a,b,c"))[0].classes == ("a", "b", "c")
    with pytest.raises(WeightsError, match="label 2 found, but 2 class names are given"):
        load(tmp_path, ("a", "b"))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int64, np.float16])
def test_other_numbers_and_signals_of_one_channel_are_taken(tmp_path, dtype):
    np.save(tmp_path / "data.npy", np.arange(200).reshape(20, 10).astype(dtype))
    np.save(tmp_path / "label.npy", np.repeat([0.0, 1.0], 10)[:, None])
    data, _ = load(tmp_path)
    assert data.train.images.shape[1:] == (1, 10)
    assert data.train.images.dtype == np.float32


@pytest.mark.parametrize(
    ("data", "labels", "reason"),
    [
        (None, [0, 1], "cannot read .*data.npy: No such file"),
        (np.zeros((4, 2, 5)), None, "cannot read .*label.npy"),
        (np.zeros(4), [0, 0, 1, 1], "expected numbers .count, channels, length."),
        (np.zeros((4, 1, 2, 3)), [0, 0, 1, 1], "expected numbers"),
        (np.full((4, 2, 5), np.nan), [0, 0, 1, 1], "NaN or infinity"),
        (np.full((4, 2, 5), 1e200), [0, 0, 1, 1], "too large"),
        (np.array([["a", "b"]] * 4), [0, 0, 1, 1], "expected numbers"),
        (np.zeros((4, 2, 5)), [0, 1, 1], r"\(3,\) labels for 4 signals"),
        (np.zeros((4, 2, 5)), [0, 0.5, 1, 1], "expected whole numbers from 0"),
        (np.zeros((4, 2, 5)), [0, -1, 1, 1], "expected whole numbers from 0"),
        (np.zeros((4, 2, 5)), [0, 0, 300, 1], "expected whole numbers from 0 to 255"),
        (np.zeros((4, 2, 5)), [0, 0, 0, 0], "at least two classes"),
        (np.zeros((4, 2, 5)), [0, 0, 0, 1], "class '0' has 3 signals; five or more|class '1' has 1"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_by_name(tmp_path, data, labels, reason):
    for name, array in (("data.npy", data), ("label.npy", labels)):
        if array is not None:
            np.save(tmp_path / name, array)
    with pytest.raises(WeightsError, match=reason):
        load(tmp_path)


def test_a_file_of_objects_is_never_unpickled(tmp_path):
    fill(tmp_path)
    np.save(tmp_path / "label.npy", np.array([print] * 60), allow_pickle=True)
    with pytest.raises(WeightsError, match=r"label\.npy: no array of numbers, or damaged"):
        load(tmp_path)


def test_only_nets_of_signals_have_a_recipe():
    assert recipe_for("mobilenet_v3_1d_large").data == "folder-signals"
    with pytest.raises(WeightsError, match="--net resnet18 takes no signals: there are mobilenet_v3_1d_small"):
        recipe_for("resnet18")


@pytest.mark.slow
def test_signals_are_learnt_and_measured_from_the_command_line(tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")
    fill(tmp_path / "mine", count=150)
    out = tmp_path / "s.npz"
    done = weights("train", "folder-signals", tmp_path / "mine", "--labels", "slow,middle,fast", "--out", out,
                   "--epochs", 12, "--threads", 1, "--show-batch", tmp_path / "sheet.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "validation loss fell, saved" in done.stdout
    assert "loss " in done.stdout
    assert (tmp_path / "sheet.png").exists()
    card = engine.model.load(out).card
    assert (card.labels, card.input_shape) == (("slow", "middle", "fast"), (2, 50))
    advised = weights("evaluate", out)
    assert advised.returncode == 78
    assert f"-m camapp evaluate {out} --dataset folder-signals --data FOLDER'" in advised.stderr
    seen = weights("evaluate", out, "--dataset", "folder-signals", "--data", tmp_path / "mine", "--workers", 1)
    assert seen.returncode == 0, seen.stderr
    (share,) = card.accuracy.values()
    assert share > 0.7
    assert f"{share:.2%}" in seen.stdout


def test_a_bare_file_is_measured_on_signals_of_another_length(tmp_path):
    fill(tmp_path, length=70, classes=2, channels=3)
    shapes = engine.nets.build("mobilenet_v3_1d_small").parameters
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", **{name: rng.uniform(0.05, 0.1, shape) for name, shape in shapes.items()})
    seen = weights("evaluate", tmp_path / "a.npz", "--dataset", "folder-signals", "--data", tmp_path, "--workers", 1)
    assert seen.returncode == 0, seen.stderr
    assert "folder-signals test split, last 12 of 60 signals" in seen.stdout.replace("\n", " ")
    assert "float64 was converted to float32" in seen.stderr
