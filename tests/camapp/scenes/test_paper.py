from dataclasses import replace

import cv2
import numpy as np
import pytest

from camapp.scenes.paper import RANGES, photograph

UNDISTORTED = replace(
    RANGES,
    tilt=(0, 0),
    turn=(0, 0),
    light=(1, 1),
    level=(200, 200),
    ink=(0.2, 0.2),
    blur=(0, 0),
    noise=(0, 0),
    gamma=(1, 1),
)


def ring():
    """Return a 0 of the size and softness of MNIST digits."""
    image = np.zeros((28, 28), np.uint8)
    cv2.ellipse(image, (14, 14), (6, 9), 0, 0, 360, 255, 2, cv2.LINE_AA)
    return image


def render(seed, count=2, ranges=RANGES, **options):
    return photograph([ring()] * count, "0" * count, np.random.default_rng(seed), ranges, **options)


def test_the_same_seed_gives_the_same_image():
    (one, truth), (two, same), (other, _) = render(3), render(3), render(4)
    assert (one.shape, one.dtype, truth) == ((480, 640), np.uint8, same)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_contain_the_ink_and_are_in_the_image(seed):
    image, truth = render(seed, 4, replace(RANGES, light=(1, 1), noise=(0, 0), blur=(0, 0)))
    assert [box.label for box in truth.boxes] == ["0"] * 4
    for box in truth.boxes:
        assert 0 < box.x0 < box.x1 < 640
        assert 0 < box.y0 < box.y1 < 480
        inside = image[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)]
        dark = np.argwhere(inside < 0.6 * np.median(inside[inside > inside.mean()]))
        assert len(dark) > 50
        for (low, high), side in zip(zip(dark.min(0), dark.max(0), strict=True), inside.shape, strict=True):
            assert low <= 4
            assert high >= side - 5


def test_light_decreases_by_the_configured_ratio():
    even, _ = render(1, 1, UNDISTORTED)
    lit, _ = render(1, 1, replace(UNDISTORTED, light=(4, 4)))
    share = lit[even > 60] / even[even > 60]
    assert share.max() == pytest.approx(1, abs=0.05)
    assert share.min() == pytest.approx(1 / 4, abs=0.05)


def test_noise_and_gamma_are_the_configured_ones():
    noiseless, _ = render(1, 1, UNDISTORTED)
    noisy, _ = render(1, 1, replace(UNDISTORTED, noise=(8, 8)))
    difference = noisy.astype(float) - noiseless
    assert difference.std() == pytest.approx(8, abs=0.5)
    bright, _ = render(1, 1, replace(UNDISTORTED, gamma=(0.6, 0.6)))
    grey = (noiseless > 30) & (noiseless < 190)
    np.testing.assert_allclose(bright[grey], 200 * (noiseless[grey] / 200.0) ** 0.6, atol=2)


def test_a_marker_is_broader_than_a_pen():
    def ink(level):
        image, truth = render(5, 1, replace(UNDISTORTED, pen=level, marker=level))
        (box,) = truth.boxes
        inside = image[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)]
        return (inside < 120).mean()

    assert ink((0.2, 0.2)) > 1.1 * ink((0.6, 0.6))


def test_ranges_convert_to_text():
    assert "tilt 0 to 30, turn -30 to 30, light 1 to 4" in str(RANGES)


def test_digits_that_do_not_fit_raise_an_error():
    with pytest.raises(ValueError, match="900 pixels high: at most 240 fit on a sheet"):
        render(0, 1, replace(RANGES, height=(60, 900)))
    with pytest.raises(ValueError, match="4 digits of these ranges do not fit into 640x480"):
        render(0, 4, poses=0)
