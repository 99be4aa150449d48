"""Counts with hysteresis, and the events that clips and commands wait for."""

from __future__ import annotations

import numpy as np
import pytest

from camapp.core.errors import SinkError
from camapp.core.events import Event, Situation, SteadyCounts, Trigger, counts_text
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, LineState, Prediction, ZoneState

SECOND = 1_000_000_000
PIXEL = Image.of(np.zeros((1, 1, 3), np.uint8), Layout.RGB)
SQUARE = ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0))


def shown(seconds: float, still: bool = False, **found: object) -> tuple[Prediction, Frame, Trace]:
    prediction = Prediction(0, **{"task": "detect", **found})  # type: ignore[arg-type]
    return prediction, Frame(0, Shot(PIXEL, PIXEL, moment_ns=round(seconds * SECOND), still=still)), Trace(0)


def began(trigger: Trigger, seconds: float, still: bool = False, **found: object) -> list[str]:
    return [event.name for event in trigger.begins(*shown(seconds, still, **found))]


def test_a_count_rises_at_once_and_falls_after_the_hold() -> None:
    steady = SteadyCounts()
    seen = [
        steady.update({"person": count}, round(at * SECOND)).get("person", 0)
        for at, count in [(0, 1), (0.1, 3), (0.2, 2), (1.05, 2), (1.15, 2), (1.9, 0), (2.1, 0), (2.2, 0)]
    ]
    assert seen == [1, 3, 3, 3, 2, 2, 2, 0]


def test_with_few_images_a_second_a_single_miss_is_held_too() -> None:
    steady = SteadyCounts()
    seen = [steady.update({"cat": count}, at * SECOND) for at, count in [(0, 1), (5, 0), (10, 1), (15, 0), (20, 0)]]
    assert seen == [{"cat": 1}] * 5
    assert [steady.update({}, at * SECOND) for at in (25, 30)] == [{"cat": 1}, {}]


def test_independent_images_and_a_source_that_starts_again_hold_nothing() -> None:
    steady = SteadyCounts()
    assert steady.update({"cat": 2}, 5) == {"cat": 2}
    assert steady.update({"dog": 1}, 6, hold=False) == {"dog": 1}
    assert steady.update({}, 2) == {}


def test_an_event_of_a_label_begins_once_although_the_detector_flickers() -> None:
    trigger = Trigger(["person"])
    found = [began(trigger, n / 10, counts={"person": 1} if n % 3 else {}) for n in range(60)]
    assert found[1] == ["person"]
    assert sum(map(len, found)) == 1
    assert not any(began(trigger, 6 + n / 10) for n in range(11))
    assert began(trigger, 7.1, counts={"person": 1}) == ["person"], "it was away for longer than the hold"


def test_an_event_of_a_count_does_not_repeat_while_the_count_wavers_around_its_bound() -> None:
    trigger = Trigger(["person>2", "person<1"])
    wavering = [name for n in range(50) for name in began(trigger, n / 10, counts={"person": 2 + n % 2})]
    assert wavering == ["person>2"]
    assert [name for n in range(20) for name in began(trigger, 5 + n / 10)] == ["person<1"]


def test_any_label_begins_for_each_of_several_objects() -> None:
    trigger = Trigger(["*"])
    assert began(trigger, 0, label="2 things", counts={"dog": 1, "person": 2}) == ["dog", "person"]
    assert began(trigger, 0.1, counts={"dog": 1, "person": 3}) == []


def test_an_event_in_a_zone() -> None:
    trigger = Trigger(["person@porch", "person@porch>1"])
    zone = ZoneState("porch", SQUARE, {"person": 1})
    assert began(trigger, 0, counts={"person": 2}, zones=(ZoneState("porch", SQUARE),)) == []
    assert began(trigger, 0.1, counts={"person": 2}, zones=(zone,)) == ["person@porch"]
    both = ZoneState("porch", SQUARE, {"person": 2})
    assert began(trigger, 0.2, counts={"person": 2}, zones=(both,)) == ["person@porch>1"]


def test_an_event_has_the_count_and_the_best_score_of_its_label() -> None:
    boxes = (Box(0, 0, 1, 1, "person", 0.6), Box(0, 0, 1, 1, "person", 0.9), Box(0, 0, 1, 1, "dog", 0.99))
    (event,) = Trigger(["person>1"]).begins(*shown(0, counts={"person": 2, "dog": 1}, boxes=boxes))
    assert event == Event("person>1", "person", 0.9, 2)


def test_the_score_of_a_new_label_is_that_of_its_frame() -> None:
    certain = {"task": "classify", "label": "cat", "score": 0.54, "raw_label": "cat", "raw_score": 0.99}
    (event,) = Trigger(["*"]).begins(*shown(0, **certain))
    assert event == Event("cat", "cat", 0.99, 0)
    assert Prediction(0, "classify", "cat", 0.54, "dog", 0.99).change_score == 0.54


def test_in_a_folder_each_image_stands_alone() -> None:
    trigger = Trigger(["cat"])
    found = [began(trigger, 0, True, counts={"cat": 1} if n % 2 else {}) for n in range(4)]
    assert found == [[], ["cat"], [], ["cat"]]


def test_labels_of_a_classifier_have_no_hold_and_comparisons_use_values() -> None:
    trigger = Trigger(["cat", "score<0.5", "offset_m >= 0.3"])

    def begins(label: str, score: float = 0.9, **values: float) -> list[str]:
        return began(trigger, 0, task="classify", label=label, score=score, values=values)

    assert begins("dog") == []
    assert begins("cat") == ["cat"]
    assert begins("cat") == []
    assert begins("cat", 0.4) == ["score<0.5"]
    assert begins("cat", 0.3) == []
    assert begins("", 0.0) == [], "no label, no score"
    assert begins("lane", offset_m=0.3) == ["offset_m>=0.3"]
    assert begins("lane", offset_m=0.29) == []


def test_a_model_of_another_task_is_followed() -> None:
    situation = Situation()
    assert situation.update(*shown(0, counts={"cat": 1}))
    assert situation.present() == {"cat"}
    assert situation.update(*shown(5, task="classify", label="7"))
    assert situation.present() == {"7"}


def test_crossings_change_the_situation() -> None:
    situation = Situation()
    line = LineState("gate", (0.0, 0.0), (1.0, 1.0))
    assert situation.update(*shown(0, counting_lines=(line,)))
    assert not situation.update(*shown(0.1, counting_lines=(line,)))
    assert situation.update(*shown(0.2, counting_lines=(LineState("gate", (0.0, 0.0), (1.0, 1.0), {"person": 1}),)))


def test_counts_are_written_with_the_most_frequent_first() -> None:
    assert counts_text({"dog": 1, "traffic light": 3, "cat": 1, "bus": 0}) == "3 traffic light, 1 cat, 1 dog"
    assert counts_text({}) == ""
    assert counts_text({f"class {number}": 1 for number in range(80)}, most=2) == "1 class 0, 1 class 1, 78 others"


@pytest.mark.parametrize("bound", ["many", "nan", "inf"])
def test_a_bound_that_is_no_number_is_refused(bound) -> None:
    with pytest.raises(SinkError, match=f"--on-label-when person>{bound}: '{bound}' is not a number"):
        Trigger([f"person>{bound}"], "--on-label-when")
