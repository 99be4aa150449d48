"""Changing the model during a run: it happens between two frames, loses no frame, and a bad model changes nothing."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from camapp.core.errors import PoolError, SettingsError
from camapp.core.models import SHIPPED
from camapp.core.settings import load_settings
from camapp.pipeline.pipeline import Pipeline
from camapp.pipeline.reload import Reloader
from camapp.remote.commands import CommandDispatcher
from camapp.sinks.sink import PredictionSink
from camapp.workers.pool import WorkerPool
from engine.model import ModelError
from tests.camapp.scripted import ScriptedSource
from tests.programs import children_of

ROOT = Path(__file__).parents[3]


class Names(PredictionSink):
    def __init__(self):
        self.seqs = []
        self.models = []

    def accept(self, prediction, frame, trace):
        self.seqs.append(prediction.seq)
        self.models.append(prediction.model)

    @property
    def changes(self):
        return [name for name, _ in groupby(self.models)]


class Live:
    """Runs a pipeline in a thread until the test is over."""

    def __init__(self, live=True, **settings):
        source = ScriptedSource(100_000, live=live, interval=0.004)
        given = load_settings({"workers": 2, "model": "mnist", **settings}, environment={})
        self.pipeline = Pipeline(given, source=source)
        self.names = Names()
        self.pipeline.add_sink(self.names)
        self.summary = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        self.summary = self.pipeline.run()

    def wait(self, condition, timeout=30):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "not within its limit"
            time.sleep(0.01)

    def wait_for(self, model):
        self.wait(lambda: self.names.models and self.names.models[-1] == model)

    def end(self):
        self.pipeline.request_stop("the test is over")
        self.thread.join(10)
        assert self.summary is not None
        return self.summary


@pytest.fixture
def start():
    started = []

    def start_live(**settings):
        started.append(Live(**settings))
        started[-1].wait(lambda: started[-1].names.models)
        return started[-1]

    yield start_live
    for live in started:
        live.end()


def settings(**values):
    return load_settings({"workers": 2, **values}, environment={})


@pytest.mark.parametrize("live", [True, False])
def test_the_model_changes_between_two_frames_and_no_frame_is_lost(start, live):
    run = start(live=live)
    children = 2 + live  # live sources have a standby
    for model in ("lenet", "mnist", "lenet"):
        run.pipeline.apply(lambda _, model=model: settings(model=model))
        run.wait_for(model)
    run.wait(lambda: len(run.pipeline.inference.pool.processes()) == children)
    balance = run.end().balance
    assert run.names.changes == ["mnist", "lenet", "mnist", "lenet"]
    assert run.names.seqs == sorted(run.names.seqs)
    assert balance.is_conserved
    assert balance.in_flight == 0
    assert balance.failed == {}
    assert set(balance.dropped) <= ({"newer frame", "stopping", "late"} if live else {"stopping"})
    if not live:
        assert balance.captured - balance.predicted <= 4, "only frames that the stop has dropped"


@pytest.mark.slow
def test_swapping_leaks_no_process_descriptor_or_thread(start):
    run = start()
    run.pipeline.apply(lambda _: settings(model="lenet"))
    run.wait(lambda: len(children()) == 3)  # two that work, and a standby, which starts a little later
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for model in ("mnist", "lenet", "mnist"):
        run.pipeline.apply(lambda _, model=model: settings(model=model))
    run.wait(lambda: len(children()) == 3)
    run.wait(lambda: (len(os.listdir("/proc/self/fd")), threading.active_count()) == before)


def children():
    """Return the process ids of the workers of this process."""
    return [pid for pid in children_of() if b"camapp.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_model_that_no_worker_can_run_leaves_the_old_one_in_use(start, monkeypatch):
    run = start()

    def refuse(pool, timeout=0.0):
        raise PoolError("no worker process was ready")

    monkeypatch.setattr(WorkerPool, "wait_ready", refuse)
    with pytest.raises(PoolError):
        run.pipeline.apply(lambda _: settings(model="lenet"))
    seen = len(run.names.models)
    run.wait(lambda: len(run.names.models) > seen + 20)
    assert run.names.changes == ["mnist"]


def test_a_stop_while_a_model_is_being_changed_is_bounded(start):
    run = start()
    change = threading.Thread(target=run.pipeline.apply, args=(lambda _: settings(model="lenet"),))
    change.start()
    asked = time.monotonic()
    balance = run.end().balance
    assert time.monotonic() - asked < 4
    change.join(10)
    assert not change.is_alive()
    assert balance.is_conserved
    assert balance.in_flight == 0


@pytest.fixture
def reloader(start, tmp_path):
    """Start a run with a model file, and a reloader that reads `run.wanted`."""
    file = tmp_path / "model.npz"
    shutil.copy(SHIPPED / "mnist.npz", file)
    run = start(model=str(file))
    run.file = file
    run.wanted = run.pipeline.settings
    run.reread = lambda: run.wanted
    run.reloader = Reloader(run.pipeline, lambda: run.reread(), check_every=0.05)
    run.reloader.start()
    yield run
    run.reloader.stop()


def replace_file(run, content):
    partial = run.file.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, run.file)


def test_a_changed_file_is_loaded(reloader):
    replace_file(reloader, (SHIPPED / "lenet.npz").read_bytes())
    reloader.wait(lambda: reloader.pipeline.model.card.net == "lenet")
    seen = len(reloader.names.models)
    reloader.wait(lambda: len(reloader.names.models) > seen)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "noise", "nan", "gone"])
def test_a_bad_file_leaves_the_old_model_running_and_is_logged_once(reloader, caplog, damage):
    whole = (SHIPPED / "mnist.npz").read_bytes()
    if damage == "nan":
        with np.load(SHIPPED / "mnist.npz") as bundle:
            arrays = {name: bundle[name] for name in bundle.files if name != "__card__"}
        arrays["fc.bias"] = np.full_like(arrays["fc.bias"], np.nan)
        np.savez(reloader.file.with_suffix(".partial.npz"), **arrays)
        os.replace(reloader.file.with_suffix(".partial.npz"), reloader.file)
    elif damage == "gone":
        reloader.file.unlink()
        reloader.reloader.request()
    else:
        replace_file(reloader, whole[: len(whole) // 2] if damage == "cut" else os.urandom(20_000))
    reloader.wait(lambda: "model not changed" in caplog.text)
    seen = len(reloader.names.models)
    reloader.wait(lambda: len(reloader.names.models) > seen + 50)
    assert caplog.text.count("model not changed") == 1
    replace_file(reloader, (SHIPPED / "lenet.npz").read_bytes())
    reloader.wait(lambda: reloader.pipeline.model.card.net == "lenet")


def test_a_request_applies_the_settings_it_can_and_names_those_that_need_a_restart(reloader, caplog):
    caplog.set_level(logging.INFO)
    reloader.wanted = settings(model="lenet", top=1, target_fps=10.0, hud=False, fps=5.0)
    reloader.reloader.request()
    reloader.wait_for("lenet")
    reloader.wait(lambda: not reloader.pipeline.hud_shown)
    now = reloader.pipeline.settings
    assert (now.model, now.top, now.target_fps, now.fps) == ("lenet", 1, 10.0, None)
    assert "applied only after a restart: fps" in caplog.text


def test_settings_that_cannot_be_read_leave_the_old_ones_in_use(reloader, caplog):
    def half_written():
        raise SettingsError("camapp.toml: not valid TOML")

    reloader.reread = half_written
    reloader.reloader.request()
    reloader.wait(lambda: "settings not reloaded: camapp.toml: not valid TOML; the old ones stay in use" in caplog.text)
    seen = len(reloader.names.models)
    reloader.wait(lambda: len(reloader.names.models) > seen)


def test_a_change_during_another_one_keeps_it(monkeypatch):
    pipeline = Pipeline(settings(model="mnist", workers=1), source=ScriptedSource(1, live=False))
    begun, may_go_on, load = threading.Event(), threading.Event(), pipeline._load

    def load_slowly(settings):
        begun.set()
        may_go_on.wait(10)
        return load(settings)

    monkeypatch.setattr(pipeline, "_load", load_slowly)
    first = threading.Thread(target=pipeline.apply, args=(lambda now: replace(now, threshold_high=0.9),))
    first.start()
    assert begun.wait(10)
    # From a page, while the configuration is read again.
    commands = CommandDispatcher([pipeline], print)
    second = threading.Thread(target=commands.run, args=("roi", "camera", [0, 0, 0.5, 0.5]))
    second.start()
    time.sleep(0.05)
    may_go_on.set()
    for thread in (first, second):
        thread.join(20)
    pipeline.inference.stop(0.0)
    assert (pipeline.settings.threshold_high, pipeline.settings.roi) == (0.9, (0, 0, 0.5, 0.5))


def test_a_missing_model_is_refused_before_anything_changes(start):
    run = start()
    with pytest.raises(ModelError):
        run.pipeline.apply(lambda _: settings(model="absent.npz"))
    assert run.pipeline.settings.model == "mnist"


def test_the_program_reloads_its_configuration_on_sighup(tmp_path):
    config, log = tmp_path / "camapp.toml", tmp_path / "log.jsonl"
    source = "pattern://digits?size=320x240"
    config.write_text(f'source = "{source}"\nlog = "{log}"\ndisplay = "none"\nmodel = "mnist"\n')
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CAMAPP_")}
    command = [sys.executable, "-m", "camapp", "run", "--config", str(config)]

    def models():
        return {json.loads(line)["model"] for line in log.read_text().splitlines()} if log.exists() else set()

    def wait_for(wanted):
        deadline = time.monotonic() + 20
        while not wanted <= models():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with subprocess.Popen(
        command,
        env=environment | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # `nohup make test` has it ignored
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for({"mnist"})
            config.write_text(config.read_text().replace("mnist", "lenet"))
            process.send_signal(signal.SIGHUP)
            wait_for({"mnist", "lenet"})
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "in flight 0" in errors
