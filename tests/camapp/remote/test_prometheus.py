"""The metrics equal the counts of the runs, and the dashboard uses no others."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import camapp
from camapp.core.frames import Trace
from camapp.core.predictions import LineState, Prediction, ZoneState
from camapp.core.stats import Histogram, Stats
from camapp.core.status import Health, Hud, State, Status

pytest.importorskip("prometheus_client", reason="the extra 'web' is not installed")
from prometheus_client.parser import text_string_to_metric_families

from camapp.remote.prometheus import Metrics

DASHBOARD = Path(camapp.__file__).parent / "data" / "grafana" / "camapp.json"
MS = 1_000_000


@dataclass
class Run:
    """A camera's run with fixed counts."""

    stats: Stats
    fixed: Status

    def status(self):
        return replace(self.fixed, balance=self.stats.balance())


def make_run(camera="door", state=State.RUNNING, health=None):
    stats = Stats()
    for seq, milliseconds in enumerate((4, 30, 9000)):
        trace = stats.captured(seq, 0)
        trace.captured = trace.taken = trace.prepared = trace.infer_start = 1_000 * MS
        trace.infer_end = trace.decoded = (1_000 + milliseconds) * MS
        stats.predicted(trace)
    stats.dropped(stats.captured(3, 0), "newer frame")
    stats.failed(stats.captured(4, 0), "worker stuck")
    stats.captured(5, 0)
    health = health or Health(61.5, 0.4, ("throttled",), ("under-voltage", "throttled"))
    figures = Hud(
        camera_fps=30.0, infer_fps=29.5, target_fps=30, workers=2, workers_busy=0.25, restarts=1, model="mnist",
        health=health,
    )  # fmt: skip
    return Run(
        stats, Status(camera, state, "", figures, stats.balance(), {}, None, 0.0, "digits", (), None, None, 12.0)
    )


def scrape(*runs):
    families = text_string_to_metric_families(Metrics(runs).render())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples, name, **labels):
    return samples[name, tuple(sorted(labels.items()))]


def test_every_frame_is_in_the_counters():
    samples = scrape(make_run())
    assert value(samples, "camapp_frames_captured_total", camera="door") == 6
    assert value(samples, "camapp_frames_predicted_total", camera="door") == 3
    assert value(samples, "camapp_frames_dropped_total", camera="door", reason="newer frame") == 1
    assert value(samples, "camapp_frames_dropped_total", camera="door", reason="late") == 0
    assert value(samples, "camapp_frames_failed_total", camera="door", reason="worker stuck") == 1
    assert value(samples, "camapp_frames_in_flight", camera="door") == 1


def test_latencies_are_histograms_in_seconds():
    samples = scrape(make_run())
    at_most = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples.items()
        if name == "camapp_latency_seconds_bucket"
    }
    assert len(at_most) == len(Histogram.BOUNDS_MS) + 1
    assert (at_most[0.002], at_most[0.005], at_most[0.033], at_most[5.0], at_most[float("inf")]) == (0, 1, 2, 2, 3)
    assert value(samples, "camapp_latency_seconds_sum", camera="door") == pytest.approx(9.034)
    assert value(samples, "camapp_latency_seconds_count", camera="door") == 3
    assert value(samples, "camapp_stage_duration_seconds_sum", camera="door", stage="infer") == pytest.approx(9.034)
    assert value(samples, "camapp_stage_duration_seconds_sum", camera="door", stage="prepare") == 0


def test_the_machine_has_one_sample_and_each_camera_its_own():
    samples = scrape(make_run("door"), make_run("yard", State.NO_SIGNAL))
    assert value(samples, "camapp_source_up", camera="door") == 1
    assert value(samples, "camapp_source_up", camera="yard") == 0
    assert value(samples, "camapp_state", camera="yard", state="no signal") == 1
    assert value(samples, "camapp_state", camera="yard", state="running") == 0
    assert value(samples, "camapp_temperature_celsius") == 61.5
    assert value(samples, "camapp_throttled", flag="throttled") == 1
    assert value(samples, "camapp_throttled", flag="under-voltage") == 0
    assert value(samples, "camapp_throttled_since_boot", flag="under-voltage") == 1
    assert value(samples, "camapp_model_info", camera="yard", model="mnist", task="digits") == 1


def detecting(counts, zones=(), lines=()):
    run = make_run()
    found = Prediction(1, "detect", counts=counts, zones=zones, counting_lines=lines)
    run.fixed = replace(run.fixed, task="detect", prediction=found)
    return run


def test_objects_zones_and_lines_are_counted():
    zone = ZoneState("porch", (), {"person": 1}, {"person": 5, "dog": 1}, {"person": 4})
    line = LineState("gate", (0, 0), (1, 1), {"person": 3}, {"car": 2})
    samples = scrape(detecting({"person": 2, "car": 1}, (zone,), (line,)))
    assert value(samples, "camapp_objects", camera="door", **{"class": "person"}) == 2
    assert value(samples, "camapp_zone_objects", camera="door", zone="porch") == 1
    assert value(samples, "camapp_zone_entered_total", camera="door", zone="porch") == 6
    assert value(samples, "camapp_zone_left_total", camera="door", zone="porch") == 4
    assert value(samples, "camapp_line_crossed_total", camera="door", line="gate", direction="in") == 3
    assert value(samples, "camapp_line_crossed_total", camera="door", line="gate", direction="out") == 2


def test_a_class_that_is_gone_is_zero_and_the_number_of_series_is_bounded():
    run = detecting({"person": 2})
    metrics = Metrics([run])
    metrics.render()
    run.fixed = replace(run.fixed, prediction=Prediction(2, "detect", counts={f"class {n}": 1 for n in range(1000)}))
    text = metrics.render()
    assert 'camapp_objects{camera="door",class="person"} 0.0' in text
    assert 'class="(others)"} 961.0' in text
    assert text.count("camapp_objects{") == 41
    assert metrics.render().count("camapp_objects{") == 41


def test_unknown_values_of_the_machine_are_left_out():
    names = {name for name, _ in scrape(make_run(health=Health()))}
    assert not names & {"camapp_temperature_celsius", "camapp_cpu_usage_ratio"}
    assert "camapp_throttled" in names


def test_two_renderings_share_nothing():
    first, second = Metrics([make_run("door")]), Metrics([make_run("yard")])
    assert '"yard"' not in first.render()
    assert '"door"' not in second.render()


def test_names_follow_the_conventions():
    families = list(text_string_to_metric_families(Metrics([make_run()]).render()))
    ours = [family for family in families if family.name.startswith("camapp_")]
    assert len(ours) > 15
    for family in ours:
        assert family.documentation
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
        for sample in family.samples:
            assert not re.search(r"_(ms|percent|fps|milliseconds)(_|$)", sample.name)
            assert sample.name.endswith("_total") == (family.type == "counter")


def test_a_histogram_counts_a_value_on_a_bound_below_it():
    histogram = Histogram()
    for number in (0.5, 0.6, 5000, 5001):
        histogram.add(number)
    assert histogram.cumulative()[:2] == [1, 2]
    assert histogram.cumulative()[-2:] == [3, 4]


def test_a_frame_without_a_worker_is_not_in_the_histogram_of_inference():
    stats = Stats()
    stats.captured(0, 0)
    stats.predicted(Trace(0, captured=1, taken=1, prepared=1, decoded=2))
    assert stats.histograms["infer"].cumulative()[-1] == 0
    assert stats.histograms["total"].cumulative()[-1] == 1


def test_every_metric_of_the_dashboard_exists_with_its_labels():
    known = {}
    for name, labels in scrape(make_run()):
        known.setdefault(name, set()).update(key for key, _ in labels)
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert len(queries) > 15
    for expression in queries:
        uses = re.findall(r"(camapp_\w+)(?:\{([^}]*)\})?", expression)
        assert uses, expression
        for name, selector in uses:
            assert name in known, expression
            # Prometheus itself adds `instance`.
            assert set(re.findall(r"(\w+)=", selector)) <= known[name] | {"instance"}, expression


def test_panels_do_not_overlap():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in columns for y in rows}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
