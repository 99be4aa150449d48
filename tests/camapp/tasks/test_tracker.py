import numpy as np
import pytest

from camapp.core.predictions import Box
from camapp.tasks.tracker import HOLD_S, LOST_S, MAX_TRACKS, Tracker
from tests.benchmarks.track_ids import CASES, detections, switches

SIZE = (1280, 720)


def box(x, y=300.0, label="person", score=0.9, wide=60.0):
    return Box(x, y, x + wide, y + 2.5 * wide, label, score)


def follow(tracker, frames, fps=10.0, start_s=0.0, sure=0.4):
    """Return the tracks of each frame's boxes."""
    return [
        [found.track for found in tracker.update(boxes, round((start_s + i / fps) * 1e9), SIZE, sure)]
        for i, boxes in enumerate(frames)
    ]


def test_twenty_crossing_objects_keep_their_ids():
    count, ids, _ = switches(detections(CASES["20 bodies, 5 % missed"], 300, seed=1))
    assert count <= 2
    assert ids == 20


@pytest.mark.parametrize(
    ("case", "most"),
    [
        ("20 people, 5 % missed", 2),
        ("the same, half the frames dropped", 2),
        ("20 people at 5 fps", 20),
        ("20 people, shaking camera", 6),
    ],
)
def test_ids_are_kept_in_harder_scenes(case, most):
    assert switches(detections(CASES[case], 120, 1))[0] <= most


def test_an_id_outlives_misses_of_half_a_second_at_any_rate():
    for fps in (30.0, 10.0, 5.0):
        tracker = Tracker()
        gap = round(0.5 * fps)
        frames = [[box(100 + 120 * i / fps)] for i in range(int(2 * fps))]
        for start in range(len(frames) // 2, len(frames) // 2 + gap):
            frames[start] = []
        tracks = [track for found in follow(tracker, frames, fps) for track in found]
        assert set(tracks) == {1}, fps
        assert tracker.counts == {"person": 1}


def test_time_counts_and_not_frames():
    # The same way, sampled at random moments.
    rng = np.random.default_rng(0)
    tracker = Tracker()
    moments = np.cumsum(rng.uniform(0.02, 0.4, 40))
    tracks = [tracker.update([box(50 + 60 * t), box(1200 - 60 * t)], int(t * 1e9), SIZE) for t in moments]
    assert {tuple(found.track for found in frame) for frame in tracks} == {(1, 2)}


def test_objects_of_different_labels_are_different_objects():
    tracker = Tracker()
    frames = [[box(100), box(102, label="dog")], [box(102, label="dog"), box(100)], [box(101, label="dog")]]
    assert follow(tracker, frames) == [[1, 2], [2, 1], [2]]
    assert tracker.counts == {"person": 1, "dog": 1}


def test_a_false_box_of_one_frame_is_no_object():
    tracker = Tracker()
    assert follow(tracker, [[box(100)], [box(100), box(600)], [box(100)], [box(100)]]) == [[1], [1, 0], [1], [1]]
    follow(tracker, [[box(100)]] * 10, start_s=0.4)
    assert follow(tracker, [[box(100), box(600)], [box(100), box(600)]], start_s=1.4) == [[1, 0], [1, 2]]
    assert tracker.counts == {"person": 2}


def test_a_weak_box_continues_an_object_but_is_no_new_one():
    tracker = Tracker()
    weak = [box(100, score=0.15), box(700, score=0.15)]
    assert follow(tracker, [[box(100)], [box(100)], weak, weak]) == [[1], [1], [1], [1]]
    assert tracker.counts == {"person": 1}


def test_counts_outlast_short_misses_only():
    tracker = Tracker()
    follow(tracker, [[box(100), box(500)]] * 3)
    follow(tracker, [[box(100)]], start_s=0.2 + 0.9 * HOLD_S)
    assert tracker.counts == {"person": 2}
    follow(tracker, [[box(100)]] * 8, start_s=0.2 + HOLD_S)
    assert tracker.counts == {"person": 1}
    assert [item.seen for item in tracker.objects] == [True]


def test_with_one_frame_a_second_a_single_miss_changes_nothing():
    tracker = Tracker()
    still = [box(100), box(500)]
    assert follow(tracker, [still, still, still[:1], still], fps=1) == [[1, 2], [1, 2], [1], [1, 2]]
    follow(tracker, [still[:1]], start_s=4)
    assert tracker.counts == {"person": 2}


def test_an_object_that_is_partly_hidden_stays_where_it_is():
    tracker = Tracker()
    follow(tracker, [[Box(100, 100, 160, 250, "person", 0.9)]] * 10)
    legs_hidden = Box(100, 100, 160, 170, "person", 0.6)
    assert follow(tracker, [[legs_hidden]] * 5, start_s=1.0) == [[1]] * 5
    (item,) = tracker.objects
    assert item.foot == (pytest.approx(130, abs=3), pytest.approx(250, abs=25))


def test_an_object_that_leaves_goes_on_beyond_the_border():
    tracker = Tracker()
    ways = [[Box(x, 300, min(x + 60, 1280), 450, "person", 0.9)] for x in range(1100, 1270, 15)]
    assert {track for found in follow(tracker, ways) for track in found} == {1}
    assert tracker.objects[0].foot[0] > 1280
    follow(tracker, [[], []], start_s=len(ways) / 10)
    assert tracker.objects == []


def test_a_lost_object_that_is_found_again_nearby_keeps_its_id():
    tracker = Tracker()
    follow(tracker, [[box(100 + 40 * i)] for i in range(10)])
    # It stood still while it was hidden.
    found = follow(tracker, [[]] * 10 + [[box(470)]] * 3, start_s=1.0)
    assert [tracks for tracks in found if tracks][-1] == [1]
    assert tracker.counts == {"person": 1}


def test_an_object_that_is_lost_for_long_is_a_new_one():
    tracker = Tracker()
    follow(tracker, [[box(100)]] * 3)
    assert follow(tracker, [[], [box(100)], [box(100)]], start_s=LOST_S + 0.5) == [[], [0], [2]]


def test_a_reset_and_a_clock_that_goes_back_forget_objects_but_no_number_is_given_twice():
    tracker = Tracker()
    follow(tracker, [[box(100)]] * 3)
    tracker.reset()
    assert (tracker.counts, tracker.objects) == ({}, [])
    assert follow(tracker, [[box(100)]] * 2, start_s=0.3) == [[2], [2]]
    assert follow(tracker, [[box(100)]] * 2, start_s=0.0) == [[3], [3]]


def test_any_boxes_are_survived():
    tracker = Tracker()
    odd = [
        Box(float("nan"), 0, 10, 10, "person", 0.9), Box(0, 0, float("inf"), 10, "person", 0.9),
        Box(50, 50, 40, 60, "person", 0.9), Box(50, 50, 50, 50, "person", 0.9), box(200, score=float("nan")),
    ]  # fmt: skip
    for moment in range(3):
        found = tracker.update([*odd, box(100)], moment * 10**8, SIZE, 0.4)
        assert [item.track for item in found] == [0] * 5 + [1]
    assert tracker.update([], 10**9, SIZE) == []


def test_the_number_of_objects_is_bounded():
    rng = np.random.default_rng(0)
    tracker = Tracker()
    for moment in range(4):
        boxes = [box(float(x), float(y), wide=4) for x, y in rng.uniform(0, 700, (MAX_TRACKS + 150, 2))]
        assert len(tracker.update(boxes, moment * 10**8, SIZE)) == len(boxes)
        assert len(tracker.objects) <= MAX_TRACKS
    assert sum(tracker.counts.values()) <= MAX_TRACKS
