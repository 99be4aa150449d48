"""`camapp doctor --try` with a scripted source: what works, what does not, and a report without names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from camapp.commands import trials
from camapp.commands.doctor import CheckStatus, fail, ok, run_doctor, warn
from camapp.commands.trials import Trials, print_trials, summary, without_names
from camapp.core.models import SHIPPED
from camapp.core.settings import load_settings
from engine.model import ModelError
from tests.camapp.scripted import ScriptedSource

ROOT = Path(__file__).parents[3]
SMALL = {"source": "pattern://digits?size=320x240&fps=30", "workers": 1}


def settings(**given):
    return load_settings({**SMALL, **given}, environment={})


def by_name(results):
    return {result.name: result for result in results}


def trials_of(source):
    return Trials(settings(), 0.5, make_source=lambda settings, model: source)


@pytest.mark.slow
def test_everything_is_tried(monkeypatch):
    monkeypatch.setattr(trials, "shipped_models", lambda: [(SHIPPED / "mnist.npz", None)])
    monkeypatch.delenv("DISPLAY", raising=False)
    results = by_name(Trials(settings(), 1.0).run())
    names = {"load", "matrix product", "shared memory", "camera", "camera rate", "picture", "model mnist", "window"}
    assert names < {*results}
    assert results["camera"].detail.startswith("pattern digits 320x240 at 30 fps")
    assert "= predicted" in results["whole run"].detail
    assert "ms a frame" in results["model mnist"].detail
    assert not [result for result in results.values() if result.status is CheckStatus.FAIL]


def test_an_absent_camera_fails_and_the_models_name_the_reason_that_they_were_not_tried():
    tried = Trials(settings(source="v4l2://97"), 0.5, open_timeout=0.1)
    camera = by_name(tried.camera())["camera"]
    assert camera.status is CheckStatus.FAIL
    assert "no camera at /dev/video97" in camera.detail
    (result,) = tried.models()
    assert result.status is CheckStatus.WARN
    assert "no frames" in result.detail


@pytest.mark.parametrize(("level", "words"), [(0, "black"), (127, "one colour")])
def test_an_image_without_content_is_reported(level, words):
    source = ScriptedSource(1000, interval=0.02)
    source.level = level
    picture = by_name(trials_of(source).camera())["picture"]
    assert picture.status is CheckStatus.WARN
    assert words in picture.detail
    assert source.closed


def test_a_camera_slower_than_requested_is_reported_with_the_cause(monkeypatch):
    source = ScriptedSource(1000, interval=0.1)
    source.fps = 30.0
    monkeypatch.setattr(ScriptedSource, "slowness", "low light, it exposes 90 ms a frame")
    rate = by_name(trials_of(source).camera())["camera rate"]
    assert rate.status is CheckStatus.WARN
    assert "low light" in rate.detail


def test_a_short_file_is_read_to_its_end():
    tried = trials_of(ScriptedSource(3, live=False))
    assert by_name(tried.camera())["camera"].status is CheckStatus.OK
    assert len(tried.shots) == 3


def test_a_damaged_model_fails_alone(monkeypatch):
    tried = trials_of(ScriptedSource(5, live=False))
    list(tried.camera())
    load = trials.load_model

    def damaged(settings):
        if settings.model == "lenet":
            raise ModelError("lenet.npz is cut short")
        return load(settings)

    monkeypatch.setattr(trials, "load_model", damaged)
    assert {result.name for result in tried.models() if result.status is CheckStatus.FAIL} == {"model lenet"}


def test_slow_products_and_a_busy_machine_are_reported(monkeypatch):
    tried = Trials(settings(), 0.5, min_gflops=1e9)
    assert "libopenblas0-pthread" in by_name(tried.matrix_product())["matrix product"].remedy
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    assert by_name(tried.load())["load"].status is CheckStatus.WARN


def test_a_lack_of_shared_memory_fails(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert by_name(Trials(settings(), 0.5).shared_memory())["shared memory"].status is CheckStatus.FAIL


def test_a_trial_that_breaks_does_not_stop_the_others():
    class Odd(Trials):
        def matrix_product(self):
            raise ZeroDivisionError("oops")
            yield

        def nothing(self):
            return iter(())

        camera = models = whole_run = window = nothing

    results = by_name(Odd(settings(), 0.5).run())
    assert {*results} == {"load", "matrix product", "shared memory"}
    assert results["matrix product"].status is CheckStatus.FAIL
    assert "oops" in results["matrix product"].detail


def test_no_name_home_folder_or_password_is_in_the_report(monkeypatch, capsys):
    monkeypatch.setattr(trials.getpass, "getuser", lambda: "erika")
    monkeypatch.setattr(trials.Path, "home", lambda: Path("/data/erika"))
    results = [
        ok("python", "3.13, /data/erika/camapp/.venv/bin/python"),
        warn("groups", "erika is not in video", "sudo usermod -aG video erika"),
        fail("camera", "rtsp://admin:secret@10.0.0.3/live?token=abc does not answer", "look at /home/otto/x"),
    ]
    print_trials(without_names(results), as_json=False)
    report = capsys.readouterr().out
    for word in ("erika", "secret", "abc", "otto"):
        assert word not in report
    assert "~/camapp/.venv/bin/python" in report
    assert "rtsp://***@10.0.0.3/live?***" in report


def test_the_report_is_a_table_below_its_summary(capsys):
    print_trials([ok("a", "x | y\nz"), warn("b", "", "do it"), fail("c", "", "")], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("doctor --try: 1 failed, 1 to look at")
    assert lines[4] == "| ok | a | x \\| y z |  |"
    assert len(lines) == 7
    assert summary([ok("a", "")]) == "all is well"


@pytest.mark.parametrize(
    ("result", "well"), [(ok("a", ""), True), (warn("a", "", ""), True), (fail("a", "", ""), False)]
)
def test_only_a_failed_check_makes_it_fail(monkeypatch, capsys, result, well):
    monkeypatch.setattr(Trials, "run", lambda self: [result])
    monkeypatch.setattr("camapp.commands.doctor.examine", list)
    assert run_doctor(True, settings(), 1.0) is well
    assert json.loads(capsys.readouterr().out)["findings"][0]["verdict"] == result.status
    run_doctor(False, settings(), 1.0)
    assert "| a |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "source", "code"),
    [
        (("doctor", "--try"), "pattern://digits?size=320x240", 0),
        (("selftest",), "pattern://digits?size=320x240", 0),
        (("selftest",), "no-such-video.mp4", 1),
    ],
)
def test_the_exit_code_tells_if_something_failed(tmp_path, command, source, code):
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}
    done = subprocess.run(
        [sys.executable, "-m", "camapp", *command, "--source", source, "--seconds", "1", "--json"],
        env=environment | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert {"machine", "camera"} <= {*findings}
    failed = [name for name, finding in findings.items() if finding["verdict"] == "fail"]
    assert done.returncode == bool(failed) == code, done.stdout
    assert ("camera" in failed) == bool(code)
