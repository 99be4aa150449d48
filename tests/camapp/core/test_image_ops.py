import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camapp.core.image import Image, Layout
from camapp.core.image_ops import Fit, Preprocessor, cut, make_fit, resize, roi_pixels
from engine.model import ModelCard

COLOUR = np.array([200, 100, 50], np.uint8)


def plain(width, height, layout=Layout.RGB):
    rgb = np.full((height, width, 3), COLOUR, np.uint8)
    data = {
        Layout.RGB: lambda: rgb,
        Layout.BGR: lambda: rgb[..., ::-1].copy(),
        Layout.RGBX: lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA),
        Layout.BGRX: lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA),
        Layout.GRAY: lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
        Layout.I420: lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420),
    }[layout]()
    return Image.of(data, layout)


def card(shape=(3, 8, 8), colour="RGB", mean=(), std=()):
    return ModelCard(net="any", input_shape=shape, colour=colour, mean=mean, std=std)


def test_crop_takes_the_centre_with_the_aspect_of_the_model():
    assert make_fit((1280, 720), (224, 224), "crop") == Fit((280, 0, 1000, 720), (0, 0, 224, 224))
    assert make_fit((100, 400), (20, 10), "crop").source == (0, 175, 100, 225)


def test_letterbox_shows_the_whole_image_between_bars():
    assert make_fit((1280, 720), (64, 64), "letterbox") == Fit((0, 0, 1280, 720), (0, 14, 64, 50))


def test_stretch_shows_the_whole_image_without_bars():
    assert make_fit((1280, 720), (64, 32), "stretch") == Fit((0, 0, 1280, 720), (0, 0, 64, 32))


def test_the_region_of_interest_is_applied_before_the_fit():
    fit = make_fit((1000, 500), (10, 10), "crop", (0.5, 0.0, 0.5, 1.0))
    assert fit.source == (500, 0, 1000, 500)


@pytest.mark.parametrize(
    "roi", [(0, 0, 1.1, 1), (-0.1, 0, 1, 1), (0.5, 0.5, 0, 0.5), (0.6, 0, 0.5, 1), (0, 0, float("nan"), 1)]
)
def test_regions_outside_the_image_are_refused(roi):
    with pytest.raises(ValueError, match="must lie in the image"):
        roi_pixels((640, 480), roi)


def test_an_unknown_fit_is_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="unknown fit 'zoom'; allowed are crop, letterbox, stretch"):
        Preprocessor(card(), fit="zoom")


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    model=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    fit=st.sampled_from(["crop", "letterbox", "stretch"]),
    start=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
)
def test_the_fit_lies_within_image_and_input(size, model, fit, start):
    roi = (*start, 1 - start[0], 1 - start[1])
    found = make_fit(size, model, fit, roi)
    for (x0, y0, x1, y1), (width, height) in ((found.source, size), (found.target, model)):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


def test_the_region_is_scaled_to_the_view():
    box = Fit((10, 20, 30, 40), (0, 0, 8, 8)).region((4.0, 3.0))
    assert (box.x0, box.y0, box.x1, box.y1) == (40, 60, 120, 120)


def test_resize_averages_all_pixels_when_shrinking():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.all(resize(stripes, (2, 2)) == 100)


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("colour", ["RGB", "BGR", "GRAY"])
def test_every_layout_is_converted_to_every_colour(layout, colour):
    pixels = cut(plain(16, 8, layout), (4, 2, 12, 6), (4, 4), colour)
    grey = cv2.cvtColor(COLOUR[None, None], cv2.COLOR_RGB2GRAY)[0, 0]
    if colour == "GRAY":
        expected = np.full((4, 4), grey)
    else:
        one = np.full(3, grey) if layout is Layout.GRAY else COLOUR
        expected = np.broadcast_to(one if colour == "RGB" else one[::-1], (4, 4, 3))
    # I420 has limited range and half the colour resolution, so colours differ by a few counts; grey stays limited.
    tolerance = 14 if layout is Layout.I420 else 0
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


def test_the_image_is_normalised_by_the_card_and_written_in_place():
    out = np.full((1, 3, 8, 8), np.nan, np.float32)
    Preprocessor(card(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5)))(plain(20, 10), out[0])
    expected = (COLOUR / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.25, 0.5)
    assert np.allclose(out, expected.reshape(1, 3, 1, 1), atol=1e-6)


def test_letterbox_bars_have_the_mean_of_the_card():
    out = np.full((3, 8, 8), np.nan, np.float32)
    Preprocessor(card(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), fit="letterbox")(plain(80, 40), out)
    assert np.all(out[:, :2] == 0)
    assert np.all(out[:, 6:] == 0)
    assert np.allclose(out[:, 2:6], (COLOUR / 127.5 - 1).reshape(3, 1, 1), atol=1e-5)


def test_letterbox_bars_overwrite_the_previous_frame():
    out = np.zeros((3, 8, 8), np.float32)
    preprocess = Preprocessor(card(), fit="letterbox")
    preprocess(plain(40, 80), out)
    preprocess(plain(80, 40), out)
    assert np.all(out[:, :2] == 0)


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("layout", [Layout.RGB, Layout.BGRX, Layout.GRAY])
def test_images_may_have_one_pixel_and_change_their_size(fit, layout):
    preprocess = Preprocessor(card((1, 28, 28), "GRAY"), fit=fit)
    out = np.zeros((1, 28, 28), np.float32)
    for size in ((1, 1), (640, 480), (1, 300), (33, 17), (300, 1)):
        out[...] = np.nan
        found = preprocess(plain(*size, layout), out)
        assert np.isfinite(out).all()
        u0, v0, u1, v1 = found.target
        assert np.ptp(out[:, v0:v1, u0:u1]) < 1e-6
        assert out.max() == pytest.approx(124 / 255, abs=0.01)
