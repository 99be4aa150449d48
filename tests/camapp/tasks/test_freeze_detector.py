from itertools import pairwise

import cv2
import numpy as np
import pytest

from camapp.tasks.freeze_detector import FreezeDetector

SCENE = cv2.GaussianBlur(np.random.default_rng(0).random((480, 640, 3)).astype(np.float32), (0, 0), 9) * 255


def small(image):
    return cv2.resize(image, (160, 160), interpolation=cv2.INTER_AREA).mean(axis=2).astype(np.float32) / 255


def ages(images):
    detector = FreezeDetector()
    return [detector.update(small(image), frame * 33_333_333) for frame, image in enumerate(images)]


def noisy(count, level=1.0):
    rng = np.random.default_rng(1)
    return [np.clip(SCENE + rng.normal(0, level, SCENE.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def test_a_still_scene_with_sensor_noise_is_always_new():
    assert max(ages(noisy(20, 0.7))) == 0


def test_repeated_images_are_new_half_of_the_time():
    twice = [image for image in noisy(10) for _ in (0, 1)]
    assert max(ages(twice)) == pytest.approx(1 / 30, abs=0.001)


def test_the_age_of_a_frozen_image_grows_until_images_change():
    live = noisy(14)
    old = ages([*live[:5], *[live[5]] * 20, *live[6:]])
    assert old[:6] == [0] * 6
    assert old[6:25] == pytest.approx([frame / 30 for frame in range(1, 20)], abs=0.001)
    assert old[29:] == [0] * 4


def test_a_single_new_image_does_not_end_a_freeze():
    live = noisy(3)
    old = ages([live[0], *[live[1]] * 30, *[live[2]] * 10])
    assert old[-1] == pytest.approx(39 / 30, abs=0.001)


def test_a_slow_camera_is_not_frozen():
    detector = FreezeDetector()
    assert [detector.update(small(image), second * 10**9) for second, image in enumerate(noisy(5))] == [0] * 5


@pytest.mark.parametrize("code", ["MJPG", "mp4v"])
def test_the_age_of_a_frozen_image_grows_in_an_encoded_video(tmp_path, code):
    """An encoder refines the image for some frames, and restarts now and then."""
    video = tmp_path / ("video.avi" if code == "MJPG" else "video.mp4")
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*code), 30, (640, 480))
    live = noisy(21, 3.0)
    for image in [*live[:20], *[live[20]] * 60]:
        writer.write(image)
    writer.release()
    reader = cv2.VideoCapture(str(video))
    shown = [reader.read()[1] for _ in range(80)]
    reader.release()
    old = ages(shown)
    assert max(old[:20]) == 0
    assert old[-1] > 1.0
    assert all(later > earlier for earlier, later in pairwise(old[50:]))
