import numpy as np
import pytest

from weights.softmax import Layer, Step, _loss, _minimise, fit_path, judge


def clouds(count, classes=3, width=20, spread=1.0, seed=0):
    """Return points around one centre for each class."""
    centres = np.random.default_rng(7).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (centres[labels] + spread * rng.normal(size=(count, width))).astype(np.float32), labels


def test_the_gradient_is_that_of_the_loss():
    inputs, labels = clouds(30)
    point = np.random.default_rng(1).normal(size=3 * 21)
    value, slope = _loss(point, inputs.astype(np.float64), labels, 0.1)
    for index in (0, 5, 20, 41, 62):
        moved = point.copy()
        moved[index] += 1e-3
        ahead = _loss(moved, inputs.astype(np.float64), labels, 0.1)[0]
        moved[index] -= 2e-3
        behind = _loss(moved, inputs.astype(np.float64), labels, 0.1)[0]
        assert (ahead - behind) / 2e-3 == pytest.approx(slope[index], abs=1e-4)
    assert value > 0


def test_the_minimum_is_found_from_anywhere():
    inputs, labels = clouds(200)
    starts = np.zeros((3, 21)), np.random.default_rng(2).normal(size=(3, 21))
    found = [_minimise(start, inputs, labels, 0.01) for start in starts]
    losses = [_loss(each.ravel(), inputs, labels, 0.01) for each in found]
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-5)
    assert all(np.abs(slope).max() < 1e-3 for _, slope in losses)
    assert np.abs(found[0][:, :-1] - found[1][:, :-1]).max() < 0.01


def test_a_small_case_has_the_optimum_that_a_fine_search_finds():
    # Two classes, one feature: the optimum solves sigmoid(w x) = y with decay; checked by a fine search.
    inputs = np.array([[-1.0], [-0.5], [0.5], [1.0]], np.float32)
    labels = np.array([0, 1, 0, 1])
    found = _minimise(np.zeros((2, 2)), inputs, labels, 0.1)
    slopes = np.linspace(-2, 2, 4001)
    losses = [_loss(np.array([-w / 2, 0, w / 2, 0]), inputs, labels, 0.1)[0] for w in slopes]
    assert found[1, 0] - found[0, 0] == pytest.approx(slopes[int(np.argmin(losses))], abs=2e-3)


def test_the_decay_of_least_validation_loss_is_kept_and_the_path_ends_early():
    train, validation = clouds(60, spread=2.5), clouds(300, spread=2.5, seed=1)
    steps: list[Step] = []
    layer, best = fit_path(train, validation, 3, steps.append)
    losses = [step.validation_loss for step in steps]
    assert best.validation_loss == min(losses)
    assert [step.is_best for step in steps] == [loss == min(losses[: n + 1]) for n, loss in enumerate(losses)]
    assert len(steps) < 11
    assert not steps[-1].is_best
    loss, accuracy = judge(layer(validation[0]), validation[1])
    assert loss == pytest.approx(best.validation_loss, rel=1e-3)
    assert accuracy == best.validation_accuracy


def test_scale_and_offset_of_the_features_do_not_matter():
    train, validation = clouds(200), clouds(200, seed=1)
    one, kept = fit_path(train, validation, 3)
    moved = lambda pair: (1000 * pair[0] + 50, pair[1])  # noqa: E731
    two, again = fit_path(moved(train), moved(validation), 3)
    assert again.validation_loss == pytest.approx(kept.validation_loss, abs=0.01)
    assert (one(validation[0]).argmax(1) == two(moved(validation)[0]).argmax(1)).mean() > 0.98


def test_features_without_any_difference_give_a_guess_and_no_error():
    features, labels = np.zeros((10, 4), np.float32), np.arange(10) % 2
    layer, best = fit_path((features, labels), (features, labels), 2)
    assert best.validation_loss == pytest.approx(np.log(2), abs=1e-6)
    assert np.isfinite(layer.weight).all()


def test_a_layer_gives_scores():
    layer = Layer(np.array([[1, 0], [0, 2]], np.float32), np.array([0, 1], np.float32))
    assert layer(np.array([[3, 4]], np.float32)).tolist() == [[3, 9]]
