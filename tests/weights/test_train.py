import errno
import os
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")

from camapp.tasks.rejection import energy  # noqa: E402
from engine import nets  # noqa: E402
from engine.model import Model  # noqa: E402
from engine.model import load as load_model  # noqa: E402
from tests.weights.made_data import write_mnist  # noqa: E402
from weights import WeightsError, export  # noqa: E402
from weights.datasets import load  # noqa: E402
from weights.outliers import outliers  # noqa: E402
from weights.recipe import Augment, Recipe  # noqa: E402
from weights.train import Report, Run, steps_in, train  # noqa: E402

RECIPE = Recipe("mnist", "mnist", epochs=3, batch=50, learning_rate=0.05, momentum=0.9, augment=Augment(shift=0.5))


@pytest.fixture
def data(tmp_path):
    return load("mnist", write_mnist(tmp_path, 400), download=False)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_training_learns_and_keeps_the_best_epoch(data):
    epochs, losses = [], []
    done = train(RECIPE, data, report=Report(losses.append, epochs.append))
    assert tuple(epochs) == done.history
    assert len(losses) == steps_in(RECIPE, data)
    assert done.best == min(done.history, key=lambda epoch: epoch.validation_loss)
    assert done.best.validation_accuracy > 0.9


def test_the_result_has_the_arrays_of_the_best_epoch(data):
    wild = replace(RECIPE, epochs=4, learning_rate=0.4)
    done = train(wild, data)
    assert done.best.number < 4, "the test needs a run that gets worse after its best epoch"
    short = train(replace(wild, epochs=done.best.number), data)
    assert all(np.array_equal(done.arrays[name], short.arrays[name]) for name in short.arrays)


def test_the_same_seed_gives_the_same_file(data):
    one, two, other = (train(replace(RECIPE, epochs=1, seed=seed), data).arrays["fc.weight"] for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_the_cosine_schedule_lowers_the_learning_rate(data):
    def last_steps(schedule):
        losses = []
        train(replace(RECIPE, epochs=2, schedule=schedule), data, report=Report(step=losses.append))
        return losses

    assert last_steps("cosine")[0] == last_steps("constant")[0]
    assert last_steps("cosine")[-1] != last_steps("constant")[-1]


def test_one_cycle_rises_for_a_fifth_of_the_run_and_falls_to_zero(data):
    run = Run(replace(RECIPE, epochs=5, schedule="one_cycle", learning_rate=0.1), data, "cpu")
    rates = []
    while not run.is_over():
        run.epoch(Report(step=lambda loss: rates.append(run._schedule.get_last_lr()[0])))
    fifth = len(rates) // 5
    assert rates[fifth - 1] == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.1 / fifth)
    assert rates[-1] == 0
    assert rates == sorted(rates[:fifth]) + sorted(rates[fifth:], reverse=True)


def test_label_smoothing_lowers_the_confidence(data):
    sharp, smooth = (train(replace(RECIPE, label_smoothing=share), data).best for share in (0.0, 0.2))
    assert smooth.train_loss > sharp.train_loss
    assert smooth.validation_accuracy > 0.9


def test_bfloat16_training_keeps_float32_parameters(data):
    done = train(replace(RECIPE, precision="bfloat16"), data)
    assert done.best.validation_accuracy > 0.9
    assert {array.dtype for array in done.arrays.values()} == {np.dtype("float32")}
    assert not np.array_equal(done.arrays["fc.weight"], train(RECIPE, data).arrays["fc.weight"])


def test_outliers_lower_the_energy_of_images_without_the_classes(data):
    def energies(done):
        model = Model(nets.default_card("mnist"), nets.fit("mnist", done.arrays)[0])
        own, others = data.validation.images, outliers(data.validation, 40, 9)
        return [np.mean(energy(model.run(np.float32(images / 255)))) for images in (own, others)]

    (own, others), (own_taught, others_taught) = (
        energies(train(replace(RECIPE, epochs=4, outliers=count, outlier_weight=1.0), data)) for count in (0, 200)
    )
    # All scores are alike at the logarithm of the number of classes.
    assert others_taught < np.log(10) + 0.5 < others - 1
    assert own_taught > others_taught + 2
    assert own > others


def test_a_run_begins_with_a_file_and_keeps_a_share_of_it(data, tmp_path):
    first = train(RECIPE, data)
    export.export(first, RECIPE, data, tmp_path / "first.npz")
    recipe = replace(RECIPE, epochs=1, start=str(tmp_path / "first.npz"), learning_rate=0.01)
    whole, half = train(recipe, data), train(replace(recipe, kept=0.5), data)
    for name, array in first.arrays.items():
        assert np.allclose(half.arrays[name], (whole.arrays[name] + array) / 2, atol=1e-6)
    assert whole.best.validation_loss < 2 * first.best.validation_loss
    same = train(replace(recipe, epochs=0), data)
    assert all(np.array_equal(same.arrays[name], array) for name, array in first.arrays.items())
    assert same.best.validation_loss == pytest.approx(first.best.validation_loss)
    assert same.history == ()


class Interrupted(Exception):
    pass


def interrupted_after(number, recipe, data, checkpoint):
    def epoch(done):
        if done.number == number + 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(recipe, data, report=Report(epoch=epoch), checkpoint=checkpoint)


@pytest.mark.parametrize(
    "changes", [{"schedule": "cosine"}, {"schedule": "one_cycle", "precision": "bfloat16", "label_smoothing": 0.1}]
)
def test_a_resumed_run_gives_the_same_result(data, tmp_path, changes):
    checkpoint = tmp_path / "run.checkpoint"
    recipe = replace(RECIPE, epochs=4, **changes)
    whole = train(recipe, data)
    interrupted_after(2, recipe, data, checkpoint)
    reported = []
    resumed = train(recipe, data, report=Report(epoch=reported.append), checkpoint=checkpoint, resume=True)
    assert resumed.history == whole.history == tuple(reported)
    assert resumed.best == whole.best
    assert all(np.array_equal(resumed.arrays[name], whole.arrays[name]) for name in whole.arrays)


def test_a_checkpoint_of_another_run_or_a_damaged_one_raises_an_error(data, tmp_path):
    checkpoint = tmp_path / "run.checkpoint"
    train(replace(RECIPE, epochs=1), data, checkpoint=checkpoint)
    with pytest.raises(WeightsError, match="another recipe, device or data"):
        train(RECIPE, data, checkpoint=checkpoint, resume=True)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="no checkpoint, or damaged"):
        train(RECIPE, data, checkpoint=checkpoint, resume=True)


def test_a_checkpoint_that_cannot_be_written_keeps_the_old_one(data, tmp_path, monkeypatch):
    checkpoint = tmp_path / "run.checkpoint"
    checkpoint.write_bytes(b"old")

    def full(state, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WeightsError, match=r"cannot write .*: No space left on device"):
        train(RECIPE, data, checkpoint=checkpoint)
    assert [path.read_bytes() for path in tmp_path.glob("*checkpoint*")] == [b"old"]


def test_patience_ends_a_run_that_does_not_improve(data):
    wild = replace(RECIPE, epochs=30, learning_rate=0.4)
    done = train(wild, data, patience=2)
    assert len(done.history) == done.best.number + 2 < 30


def test_a_non_finite_loss_stops_the_run(data):
    with pytest.raises(WeightsError, match=r"the loss became (nan|inf) in epoch 1: nothing was saved; lower"):
        train(replace(RECIPE, learning_rate=1e20), data)


def test_half_precision_storage_halves_the_file_and_is_evaluated(data, tmp_path):
    done = train(RECIPE, data)
    half, whole = (
        export.export(done, replace(RECIPE, storage=storage), data, tmp_path / f"{storage}.npz")[0]
        for storage in ("float16", "float32")
    )
    sizes = [(tmp_path / f"{storage}.npz").stat().st_size for storage in ("float16", "float32")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_model(tmp_path / "float16.npz")
    shown = np.random.default_rng(0).random((5, 1, 28, 28), np.float32)
    np.testing.assert_array_equal(loaded.run(shown), half.run(shown))
    np.testing.assert_allclose(half.run(shown), whole.run(shown), atol=0.05)


def test_a_net_with_other_results_in_the_engine_is_not_saved(data, tmp_path, monkeypatch):
    done = train(replace(RECIPE, epochs=1), data)
    monkeypatch.setattr(export.Model, "run", lambda self, inputs: np.zeros((len(inputs), 10), np.float32))
    with pytest.raises(WeightsError, match="differ from PyTorch's"):
        export.export(done, RECIPE, data, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
