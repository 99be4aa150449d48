import numpy as np
import pytest

from camapp.core.image import Image, Layout

COLOUR = (200, 60, 40)


def filled(layout):
    red, green, blue = COLOUR
    pixel = {
        Layout.RGB: (red, green, blue),
        Layout.BGR: (blue, green, red),
        Layout.RGBX: (red, green, blue, 9),
        Layout.BGRX: (blue, green, red, 9),
    }[layout]
    return Image.of(np.full((6, 8, len(pixel)), pixel, np.uint8), layout)


def i420(stride):
    """Return the colour in limited-range BT.601, 8x6 in rows of `stride` bytes, with random padding."""
    red, green, blue = (value / 255 for value in COLOUR)
    luma = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112 * blue
    v = 128 + 112 * red - 93.786 * green - 18.214 * blue
    data = np.full((9, stride), 77, np.uint8)
    data[:6, :8] = round(luma)
    halves = data.reshape(18, stride // 2)
    halves[12:15, :4] = round(u)
    halves[15:18, :4] = round(v)
    return Image(data, Layout.I420, 8, 6)


IMAGES = [filled(layout) for layout in (Layout.RGB, Layout.BGR, Layout.RGBX, Layout.BGRX)] + [i420(8), i420(16)]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.layout.value}{image.data.shape}")
def test_a_known_colour_is_converted_correctly_from_every_layout(image):
    for pixels, expected in ((image.rgb(), COLOUR), (image.bgr(), COLOUR[::-1])):
        assert pixels.shape == (6, 8, 3)
        assert np.abs(pixels.astype(int) - expected).max() <= 3
    assert image.gray().shape == (6, 8)
    assert image.size == (8, 6)


def test_an_image_in_the_requested_layout_is_not_converted():
    image = filled(Layout.BGR)
    assert image.bgr() is image.data
    assert np.shares_memory(i420(16).gray(), i420(16).data) is False
    padded = i420(16)
    assert np.shares_memory(padded.gray(), padded.data)
