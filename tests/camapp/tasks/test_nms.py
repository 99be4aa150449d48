import numpy as np
import pytest

from camapp.tasks.nms import MAX_CANDIDATES, MAX_OBJECTS, all_classes, best_classes, iou_matrix, suppress
from tests.camapp.tasks.heads.published import greedy, iou


def candidates(count, classes=3, spread=200, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, spread, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 60, (count, 2))], axis=1).astype(np.float32)
    return boxes, rng.permutation(count).astype(np.float32) / count, rng.integers(0, classes, count)


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_what_stays_is_what_the_plain_loop_keeps(count):
    boxes, scores, classes = candidates(count, spread=60)
    rows = list(zip(boxes.tolist(), classes.tolist(), scores.tolist(), strict=True))
    expected = [row[2] for row in greedy(rows, 0.3)]
    found = suppress(boxes, scores, classes, 0.3)
    assert scores[found].tolist() == expected[:MAX_OBJECTS]
    assert count < 500 or 50 < len(found) < 300


def test_a_long_chain_of_overlaps_is_resolved_in_order():
    starts = np.arange(190, dtype=np.float32)
    boxes = np.stack([starts, 0 * starts, starts + 2, 0 * starts + 1], axis=1)
    # Each box overlaps its neighbours by a third: every other one stays.
    assert suppress(boxes, -starts, np.zeros(190, int), 0.3).tolist() == list(range(0, 190, 2))


def test_objects_and_candidates_are_bounded():
    boxes, scores, classes = candidates(100_000, spread=1e6)
    found = suppress(boxes, scores, classes, 0.5)
    assert len(found) == MAX_OBJECTS
    assert scores[found].tolist() == sorted(scores.tolist())[: -MAX_OBJECTS - 1 : -1]
    same = np.tile(np.array([[0, 0, 9, 9]], np.float32), (100_000, 1))
    assert suppress(same, scores, classes * 0, 0.5).tolist() == [int(scores.argmax())]


def test_boxes_without_area_overlap_nothing():
    scores, classes = np.array([3, 2, 1], np.float32), np.zeros(3, int)
    assert len(suppress(np.zeros((3, 4), np.float32), scores, classes, 0.5)) == 3
    swapped = np.array([[9, 0, 0, 5], [0, 9, 5, 0], [0, 0, 9, 9]], np.float32)
    assert len(suppress(swapped, scores, classes, 0.5)) == 3


def test_iou_of_pairs():
    boxes, *_ = candidates(9)
    expected = [[iou(first, second) for second in boxes.tolist()] for first in boxes.tolist()]
    assert iou_matrix(boxes, boxes) == pytest.approx(np.array(expected), abs=1e-5)


def test_the_best_class_of_each_row_and_every_class_above_the_score():
    scores = np.array([[0.1, 0.2], [0.5, 0.9], [0.7, 0.6], [np.nan, 0.9]], np.float32)
    rows, classes, found = best_classes(scores, 0.5)
    assert (rows.tolist(), classes.tolist(), found.tolist()) == ([1, 2], [1, 0], pytest.approx([0.9, 0.7]))
    rows, classes, _ = all_classes(scores[:3], 0.5)
    assert list(zip(rows.tolist(), classes.tolist(), strict=True)) == [(1, 1), (2, 0), (2, 1), (1, 0)]
    many = np.ones((MAX_CANDIDATES, 2), np.float32)
    assert len(all_classes(many, 0.5)[0]) == MAX_CANDIDATES
