"""Regions of one camera in one run, with real workers: one thread reads the source, frames are conserved in each."""

import json
import threading

import pytest

from camapp.app import build_cameras
from camapp.capture.shared import SharedCapture
from camapp.core.errors import ExitCode, SourceLost
from camapp.core.regions import by_region
from camapp.core.settings import load_settings
from camapp.core.stats import Stats
from camapp.sinks.sink import PredictionSink
from tests.camapp.scripted import ScriptedSource
from tests.programs import wait_until


class Seen(PredictionSink):
    def __init__(self):
        self.sequence = []

    def accept(self, prediction, frame, trace):
        self.sequence.append(frame.seq)


@pytest.fixture
def regions(monkeypatch):
    def make(source, *texts, **settings):
        monkeypatch.setattr("camapp.capture.source.create_source", lambda uri, options: source)
        given = load_settings({"region": texts, "model": "mnist", **settings}, environment={})
        return build_cameras(by_region([given]))

    return make


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "capture"]


def test_every_region_predicts_every_frame_of_a_file_that_is_read_once(regions, tmp_path):
    source = ScriptedSource(30, live=False)
    log = tmp_path / "all.jsonl"
    both = regions(source, "gate=0,0,0.5,1", "bin=0.5,0,0.5,1:lenet", log=str(log))
    seen = [Seen(), Seen()]
    for pipeline, sink in zip(both.pipelines, seen, strict=True):
        pipeline.add_sink(sink)
    summaries = both.run()
    assert [sink.sequence for sink in seen] == [list(range(30))] * 2
    assert all(summary.code is ExitCode.OK and summary.balance.is_conserved for summary in summaries)
    assert (source.opened, source.closed) == (1, 1)
    records = [json.loads(line) for line in (tmp_path / "all-bin.jsonl").read_text().splitlines()]
    assert {(record["camera"], record["model"]) for record in records} == {("bin", "lenet")}


def test_regions_with_the_same_model_share_workers(regions):
    same = regions(ScriptedSource(1), "a=0,0,0.5,1", "b=0.5,0,0.5,1", workers="1")
    try:
        first, second = (pipeline.inference.pool for pipeline in same.pipelines)
        assert first._shared is second._shared
    finally:
        same.discard()


def test_a_live_source_is_read_by_one_thread_and_a_region_that_ends_leaves_the_others(regions):
    source = ScriptedSource(20, SourceLost("unplugged"), 100_000, interval=0.01)
    before = len(readers())
    both = regions(source, "gate=0,0,0.5,1", "bin=0.5,0,0.5,1", workers="1")
    gate, other = both.pipelines
    ended = []
    run = threading.Thread(target=lambda: ended.extend(both.run()), daemon=True)
    run.start()
    wait_until(lambda: min(pipeline.stats.predictions() for pipeline in both.pipelines) > 30, 20)
    assert len(readers()) == before + 1
    gate.pause()
    wait_until(lambda: gate.stats.balance().dropped.get("paused", 0) > 2, 20)
    gate.request_stop("this one ends")
    wait_until(lambda: gate.ended, 20)
    predicted = other.stats.predictions()
    wait_until(lambda: other.stats.predictions() > predicted + 10, 20)
    assert not other.paused
    both.request_stop("the test is over")
    run.join(20)
    first, second = ended
    assert (first.reason, second.reason) == ("this one ends", "the test is over")
    assert first.balance.is_conserved
    assert second.balance.is_conserved
    assert (source.opened, source.closed) == (2, 2), "lost once, and looked for once"
    assert len(readers()) == before


def test_a_member_that_never_starts_does_not_hold_up_the_others():
    group, source, taken = SharedCapture(2), ScriptedSource(5, live=False), []
    arguments = (source, Stats(), lambda frame, trace: taken.append(frame.seq), 1.0, None, lambda: None, 1.0)
    here, absent = group.share(*arguments), group.share(*arguments)
    here.start()
    assert here.thread.ident is None, "the other one may still start"
    absent.stop()
    wait_until(lambda: len(taken) == 5, 20)
    here.stop()
    here.join(5)
    assert not here.is_alive()
    assert not absent.is_alive()
