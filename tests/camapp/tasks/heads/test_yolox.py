import numpy as np

from camapp.tasks.heads.yolox import YoloxHead
from tests.camapp.tasks.heads.comparison import prepared


def test_the_letterbox_is_grey_and_the_image_in_its_corner(file):
    item = prepared(YoloxHead.input, 64, 640)
    assert (item[:, -1] == np.float32(114)).all()
    assert item[:, :8].max() > 120
