import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from camapp.core.predictions import Box
from camapp.scenes.digits import DigitScene
from camapp.scenes.handwriting import GLYPHS, Hand, write_digit
from camapp.scenes.objects import ObjectScene
from camapp.scenes.scene import REGISTRY, SceneOptions, scene_class

SMALL = SceneOptions(size=(320, 240), seed=5)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_same_seed_and_index_give_the_same_image_in_any_order(name):
    cls = scene_class(name)
    one, other = cls(SMALL), cls(SMALL)
    forwards = [one.render(i) for i in (3, 70, 140)]
    backwards = [other.render(i) for i in (140, 70, 3)][::-1]
    for (image, truth), (again, truth_again) in zip(forwards, backwards, strict=True):
        assert np.array_equal(image, again)
        assert truth == truth_again


@pytest.mark.parametrize("name", REGISTRY)
def test_other_seeds_and_indices_give_different_images(name):
    cls = scene_class(name)
    first = cls(SMALL).render(0)[0]
    assert not np.array_equal(first, cls(SMALL).render(1)[0])
    assert not np.array_equal(first, cls(replace(SMALL, seed=6)).render(0)[0])


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("size", [(64, 64), (1280, 720), (240, 320), (641, 359), (320, 64)])
def test_images_have_the_requested_size_and_contain_the_truth(name, size):
    width, height = size
    scene = scene_class(name)(SceneOptions(size=size, seed=2, count=3))
    for index in (0, 100, 1000):
        image, truth = scene.render(index)
        assert image.shape == (height, width, 3)
        assert image.dtype == np.uint8
        assert len(truth.boxes) == (0 if name == "track" else 3)
        for box in truth.boxes:
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height


def test_an_unknown_scene_raises_an_error_with_its_name():
    with pytest.raises(ValueError, match="unknown scene 'desk'; known are crossing, digits, objects, track"):
        scene_class("desk")


@pytest.mark.parametrize("count", [1, 4, 8])
def test_the_number_of_digits_is_the_requested_one_and_they_are_ordered_from_left_to_right(count):
    scene = DigitScene(SceneOptions(seed=9, count=count))
    for index in range(0, 600, 60):
        _, truth = scene.render(index)
        assert len(truth.label) == count
        assert "".join(box.label for box in truth.boxes) == truth.label
        middles = [box.x0 + box.x1 for box in truth.boxes]
        assert middles == sorted(middles)


def test_digits_change_every_two_seconds_while_the_paper_moves_smoothly():
    scene = DigitScene(SMALL)
    labels = [scene.render(i)[1].label for i in (0, 59, 60, 119, 120)]
    assert labels[0] == labels[1] != labels[2] == labels[3] != labels[4]
    positions = [scene.render(i)[1].boxes[0].x0 for i in range(60)]
    steps = np.abs(np.diff(positions))
    assert 0 < steps.max() < 0.02 * SMALL.size[0]


def test_boxes_of_the_truth_bound_the_ink_exactly():
    # The same scene with and without ink differs only in the pixels of the ink.
    options = SceneOptions(seed=3, count=1)
    scene, blank = DigitScene(options), DigitScene(options, ink=False)
    for index in (10, 200, 500):
        image, truth = scene.render(index)
        darker = cv2.subtract(blank.render(index)[0], image).max(axis=2)
        x, y, w, h = cv2.boundingRect((darker > 0.5 * darker.max()).astype(np.uint8))
        box = truth.boxes[0]
        assert np.allclose((x, y, x + w, y + h), (box.x0, box.y0, box.x1, box.y1), atol=3)


def test_the_sheet_tilts_up_to_thirty_degrees():
    tilts = []
    for seed in range(6):
        scene = DigitScene(replace(SMALL, seed=seed))
        width, height = SMALL.size
        focal = 1.2 * width
        camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        for index in range(0, 900, 15):
            axes = np.linalg.inv(camera) @ scene.homography(index / 30)
            normal = np.cross(axes[:, 0], axes[:, 1])
            tilts.append(np.degrees(np.arccos(normal[2] / np.linalg.norm(normal))))
    assert max(tilts) <= 30.01
    assert max(tilts) > 25


def test_the_light_varies_up_to_four_to_one_across_the_image():
    ratios = []
    for seed in range(6):
        scene = DigitScene(replace(SMALL, seed=seed))
        for second in range(30):
            light = scene.light_map(float(second)).astype(float)
            ratios.append(light.max() / light.min())
    assert 3 < max(ratios) < 5


def test_handwriting_has_all_digits_and_varies():
    rng = np.random.default_rng(0)
    hand = Hand.random(rng)
    assert "".join(GLYPHS) == "0123456789"
    for digit in GLYPHS:
        one, other = write_digit(digit, 60, hand, rng), write_digit(digit, 60, hand, rng)
        assert one.max() == 255
        assert 50 < one.shape[0] < 90
        assert one.shape != other.shape or not np.array_equal(one, other)


def test_the_label_of_an_object_scene_is_its_largest_shape():
    _, truth = ObjectScene(SceneOptions(seed=4, count=5)).render(33)

    def area(box: Box) -> float:
        return (box.x1 - box.x0) * (box.y1 - box.y0)

    assert truth.label in {box.label for box in truth.boxes}
    assert area(next(box for box in truth.boxes if box.label == truth.label)) > 0.4 * max(map(area, truth.boxes))


@pytest.mark.slow
def test_a_live_source_of_720p_at_30_fps_costs_less_than_half_a_core():
    scene = DigitScene(SceneOptions(seed=1))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        start = time.process_time()
        for index in range(120):
            scene.render(index)
        spent = (time.process_time() - start) / 120
    finally:
        cv2.setNumThreads(threads)
    assert spent < 0.5 / 30
