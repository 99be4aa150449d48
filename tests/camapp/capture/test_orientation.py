import numpy as np
import pytest

from camapp.capture.orientation import Orientation
from camapp.core.frames import Shot, Truth
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Polyline


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
def test_ground_truth_moves_with_the_pixels(rotate, hflip, vflip):
    data = np.zeros((6, 10, 3), np.uint8)
    data[1:3, 2:7] = 255
    image = Image.of(data, Layout.RGB)
    truth = Truth(boxes=(Box(2, 1, 7, 3),), lines=(Polyline(((2.5, 1.5), (6.5, 2.5))),))
    shot = Orientation(hflip, vflip, rotate).shot(Shot(image, image, truth=truth))
    box = shot.truth.boxes[0]
    pixels = shot.view.data[:, :, 0]
    inside = pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
    assert inside.size == 10
    assert (inside == 255).all()
    assert pixels.sum() == inside.sum()
    for x, y in shot.truth.lines[0].points:
        assert pixels[int(y), int(x)] == 255


def test_rotation_is_clockwise():
    data = np.zeros((2, 3), np.uint8)
    data[0, 0] = 9
    turned = Orientation(rotate=90).image(Image.of(data, Layout.GRAY))
    assert turned.size == (2, 3)
    assert turned.data[0, 1] == 9


def test_the_model_view_stays_the_same_object_as_the_view():
    image = Image.of(np.zeros((4, 6, 3), np.uint8), Layout.BGR)
    shot = Orientation(hflip=True).shot(Shot(image, image))
    assert shot.model_view is shot.view
