import numpy as np
import pytest

from camapp.core.predictions import Box
from camapp.core.zones import parse_lines, parse_zones
from camapp.tasks.tracker import Followed, Tracker
from camapp.tasks.zones import Counting

SIZE = (1000, 500)
ROOM = "room=0.4,0.2 0.6,0.2 0.6,0.8 0.4,0.8"
# From the lower edge up: what goes to the right goes in.
GATE = "gate=0.5,0.9,0.5,0.1"


def at(x, y=250.0, number=1, label="person", seen=True):
    return Followed(number, label, (x, y), 50.0, seen)


def watch(counting, frames, fps=10.0, start_s=0.0):
    """Return the states of zones and lines after the frames, each a list of objects."""
    states = ((), ())
    for index, objects in enumerate(frames):
        states = counting.update(objects, round((start_s + index / fps) * 1e9), SIZE)
    return states


def zone(frames, **options):
    return watch(Counting(parse_zones([ROOM])), frames, **options)[0][0]


def line(frames, text=GATE, **options):
    return watch(Counting((), parse_lines([text])), frames, **options)[1][0]


def steps(start, end, count=20):
    return [[at(float(x))] for x in np.linspace(start, end, count)]


def test_who_comes_and_goes_has_entered_and_left():
    through = steps(100, 900)
    state = zone(through[:10])
    assert (state.name, state.inside, state.entered, state.left) == ("room", {"person": 1}, {"person": 1}, {})
    assert state.outline == ((400, 100), (600, 100), (600, 400), (400, 400))
    state = zone(through)
    assert (state.inside, state.entered, state.left) == ({}, {"person": 1}, {"person": 1})


def test_an_object_first_seen_inside_has_not_entered():
    state = zone(steps(500, 510))
    assert (state.inside, state.entered, state.left) == ({"person": 1}, {}, {})
    state = zone(steps(500, 900))
    assert (state.inside, state.entered, state.left) == ({}, {}, {"person": 1})


def test_labels_are_counted_apart():
    state = zone(
        [[at(100, number=1), at(500, number=2, label="dog")], [at(500, number=1), at(900, number=2, label="dog")]]
    )
    assert (state.inside, state.entered, state.left) == ({"person": 1}, {"person": 1}, {"dog": 1})


def test_the_dwell_is_that_of_the_object_that_is_inside_longest():
    state = zone([*steps(100, 500, 5), *[[at(500), at(520, number=2)]] * 30])
    assert state.inside == {"person": 2}
    assert state.dwell_s == pytest.approx(3.0, abs=0.2)
    assert zone([*steps(100, 500, 5), *steps(500, 900, 5)]).dwell_s == 0


def test_jitter_at_the_border_of_a_zone_counts_once():
    rng = np.random.default_rng(0)
    jitter = [[at(400 + float(rng.uniform(-4.5, 4.5)))] for _ in range(200)]
    assert not zone(jitter).left
    state = zone([*steps(300, 390, 5), *jitter, *steps(410, 500, 5), *[[at(500)]]])
    assert (state.inside, state.entered, state.left) == ({"person": 1}, {"person": 1}, {})


def test_a_missed_object_stays_inside_and_one_given_up_does_not():
    state = zone([[at(500)], [at(500)], [at(500, seen=False)]])
    assert state.inside == {"person": 1}
    state = zone([[at(500)], [at(500)], []])
    assert (state.inside, state.left) == ({}, {})


def test_a_zone_that_ends_with_the_view_holds_what_the_border_cuts_off():
    counting = Counting(parse_zones(["all=0,0 1,0 1,1 0,1"]))
    ((state,), _) = watch(counting, [[at(500, 500.0)], [at(500, 505.0)], [at(0, 499.0, number=2)]])
    assert (state.inside, state.left) == ({"person": 1}, {})
    assert state.entered == {}


def test_directions_are_those_seen_from_the_start_of_the_line():
    assert (line(steps(100, 900)).into, line(steps(100, 900)).out) == ({"person": 1}, {})
    assert (line(steps(900, 100)).into, line(steps(900, 100)).out) == ({}, {"person": 1})
    downwards = "gate=0.5,0.1,0.5,0.9"
    assert line(steps(100, 900), downwards).out == {"person": 1}
    # Across the image: seen from the left end, right is below.
    falling = [[at(500, float(y))] for y in range(50, 480, 20)]
    assert line(falling, "bar=0,0.5,1,0.5").into == {"person": 1}


def test_jitter_on_a_line_counts_once():
    rng = np.random.default_rng(1)
    jitter = [[at(500 + float(rng.uniform(-4.5, 4.5)))] for _ in range(200)]
    state = line([*steps(400, 490, 5), *jitter, *steps(510, 600, 5)])
    assert (state.into, state.out) == ({"person": 1}, {})
    state = line([*steps(400, 490, 5), *jitter, *steps(490, 400, 5)])
    assert (state.into, state.out) == ({}, {})


def test_a_foot_point_exactly_on_the_line_counts_once():
    for way in ([400, 450, 500, 550, 600], [400, 500, 600], [600, 500, 500, 400]):
        state = line([[at(float(x))] for x in way])
        assert sum(state.into.values()) + sum(state.out.values()) == 1, way


def test_a_way_around_the_end_of_a_line_is_no_crossing():
    around = [(400, 250), (400, 480), (600, 480), (600, 250)]
    state = line([[at(float(x), float(y))] for x, y in around])
    assert (state.into, state.out) == ({}, {})
    # Through it and back around its end: in, not out.
    state = line([[at(float(x), float(y))] for x, y in [*around[::3], *around[:0:-1], (400, 480), (400, 250)]])
    assert (state.into, state.out) == ({"person": 1}, {})


def test_objects_that_are_missed_on_the_line_count_once():
    gap = [*steps(400, 480, 5), *[[at(480 + 5 * i, seen=False)] for i in range(8)], *steps(530, 600, 5)]
    assert line(gap).into == {"person": 1}
    # The place of a missed object is a guess, which counts nothing.
    guessed = [*steps(400, 480, 5), *[[at(480 + 20 * i, seen=False)] for i in range(8)], *steps(480, 400, 5)]
    assert (line(guessed).into, line(guessed).out) == ({}, {})


def test_losing_the_id_on_the_line_counts_once():
    tracker, counting = Tracker(), Counting((), parse_lines([GATE]))
    for index, x in enumerate([*range(300, 500, 12), *[None] * 10, *range(500, 700, 12)]):
        boxes = [] if x is None else [Box(x - 25, 150, x + 25, 250, "person", 0.9)]
        tracker.update(boxes, index * 10**8, SIZE)
        _, (state,) = counting.update(tracker.objects, index * 10**8, SIZE)
    assert (state.into, state.out) == ({"person": 1}, {})


def test_many_pass_in_both_directions():
    frames = []
    for index in range(60):
        right = [at(100.0 + 14 * index, 200, number=1 + i) for i in range(3)]
        left = [at(900.0 - 14 * index, 300, number=10 + i, label="dog") for i in range(2)]
        frames.append([*right, *left])
    state = line(frames)
    assert (state.into, state.out) == ({"person": 3}, {"dog": 2})


def test_totals_outlive_what_is_known_of_objects():
    counting = Counting(parse_zones([ROOM]), parse_lines([GATE]))
    watch(counting, steps(100, 900))
    # The clock of a film that starts again.
    (inside,), (crossed,) = watch(counting, [[at(x, number=2) for x in (float(v),)] for v in range(100, 900, 40)])
    assert (crossed.into, inside.entered, inside.left) == ({"person": 2}, {"person": 2}, {"person": 2})


def test_changed_settings_keep_the_counts_of_unchanged_lines():
    old = Counting(parse_zones([ROOM]), parse_lines([GATE, "other=0.2,0.9,0.2,0.1"]))
    watch(old, steps(100, 900))
    new = Counting(parse_zones(["room=0.3,0.2 0.6,0.2 0.6,0.8 0.3,0.8"]), parse_lines([GATE, "third=0.7,0.9,0.7,0.1"]))
    new.take_over(old)
    (room,), (gate, third) = watch(new, [[]], start_s=2.0)
    assert (gate.name, gate.into) == ("gate", {"person": 1})
    assert (third.into, room.entered) == ({}, {})
