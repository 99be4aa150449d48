import json
import math

import cv2
import numpy as np
import pytest

from camapp.core.ground_camera import GroundCamera
from camapp.scenes.course import Stripe, bending
from camapp.scenes.photograph import Look, photograph
from camapp.scenes.track import truth_of
from camapp.scenes.trackside import View
from tests.benchmarks.track_baseline import baseline_lines
from tests.benchmarks.track_score import painted, sampled, score
from weights.photographs import labelled

SIZE = (400, 300)


def line(*points):
    return np.array(points, float)


def moved(points, x, y):
    return points + np.array([x, y])


UPRIGHT = line((100, 290), (120, 100))
LEVEL = line((20, 200), (380, 190))


def counts(found, lines, spare=()):
    result = score(found, lines, SIZE, spare)
    return result.matched, result.missed, result.false


def test_the_truth_itself_scores_one():
    result = score([UPRIGHT, LEVEL], [LEVEL, UPRIGHT], SIZE)
    assert (result.f1, result.false, max(result.errors)) == (1.0, 0, pytest.approx(0))


def test_a_line_within_two_and_a_half_percent_of_the_width_matches():
    assert counts([moved(UPRIGHT, 9, 0)], [UPRIGHT]) == (1, 0, 0)
    assert counts([moved(UPRIGHT, 12, 0)], [UPRIGHT]) == (0, 1, 1)


def test_the_limit_of_horizontal_lines_is_four_times_larger():
    assert counts([moved(LEVEL, 0, 38)], [LEVEL]) == (1, 0, 0)
    assert counts([moved(LEVEL, 0, 44)], [LEVEL]) == (0, 1, 1)


def test_three_quarters_of_each_line_must_be_near_the_other():
    half = sampled(UPRIGHT, 1.0)[:95]
    nearly_all = sampled(UPRIGHT, 1.0)[:165]
    assert counts([half], [UPRIGHT]) == (0, 1, 1)
    assert counts([UPRIGHT], [half]) == (0, 1, 1)
    assert counts([nearly_all], [UPRIGHT]) == (1, 0, 0)


def test_two_detected_lines_cannot_match_one():
    assert counts([UPRIGHT, moved(UPRIGHT, 2, 0)], [UPRIGHT]) == (1, 0, 1)


def test_lines_are_paired_for_the_maximum_number_of_matches():
    middle = moved(UPRIGHT, 8, 0)
    assert counts([middle, UPRIGHT], [UPRIGHT, moved(UPRIGHT, 16, 0)]) == (2, 0, 0)


def test_doubtful_lines_are_optional():
    assert counts([UPRIGHT], [], [UPRIGHT]) == (0, 0, 0)
    assert counts([], [], [UPRIGHT]) == (0, 0, 0)


def test_no_lines_in_an_empty_image_score_one():
    assert score([], [], SIZE).f1 == 1.0


def test_labels_are_read_with_doubtful_and_double_lines(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 40, 3), np.uint8))
    lines = [[[1, 29], [2, 3]], [[9, 29], [8, 3]]]
    entry = {"image": "a.png", "size": [40, 30], "subset": "floor", "lines": lines, "merged_double": [1]}
    (tmp_path / "labels.json").write_text(json.dumps([entry | {"doubtful": [[[5, 5], [6, 6]]]}]))
    ((subset, image, found, spare),) = labelled(tmp_path)
    assert (subset, image.shape, len(found), len(spare)) == ("floor", (30, 40, 3), 2, 2)
    assert spare[1].tolist() == lines[1]


def test_the_classical_detector_finds_plain_white_lines():
    course = bending(20.0, np.zeros(2), (-0.4, 0.4), back=1.0)
    camera = GroundCamera.of(SIZE, 0.3, math.radians(20), math.radians(75))
    stripes = tuple(Stripe(course.beside(at), 0.05, (250.0,) * 3) for at in course.borders)
    view = View(camera, stripes, Look(ground=(70.0,) * 3, grain=0.0, grain_size=0.01, reach=3.0), {})
    image = photograph(view.stripes, view.look, view.camera)
    lines = [np.array(line.points) for line in truth_of(view, image).lines if line.label == "line"]
    assert len(lines) == 2
    assert counts(baseline_lines(image), lines)[0] == 2


@pytest.mark.parametrize(("paint", "channels"), [("yellow", (2,)), ("black", (0, 1, 2))])
def test_lines_are_painted_where_their_truth_is(paint, channels):
    (white, truth), (pixels, lines) = (painted(2, (320, 240), colour) for colour in ("white", paint))
    assert lines == truth
    points = [point for line in truth.lines if line.label == "line" for point in line.points]
    columns, rows = np.clip(points, 0, (319, 239)).astype(int).T
    darker = np.median(white[rows, columns].astype(int) - pixels[rows, columns], axis=0)
    assert tuple(np.flatnonzero(darker > 100)) == channels


def test_views_whose_ground_hides_the_colour_are_left_out():
    assert painted(3, (160, 120), "black") is None
    assert painted(4, (160, 120), "yellow") is None
