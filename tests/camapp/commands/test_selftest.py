"""The selftest with a source that a test scripts: what is well, what is not, and nobody's name in the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from camapp.commands import selftest
from camapp.commands.doctor import CheckStatus, fail, ok, warn
from camapp.commands.selftest import STEPS, Tried, markdown, verdict
from camapp.core.models import SHIPPED
from camapp.core.settings import load_settings
from engine.model import ModelError
from tests.camapp.scripted import ScriptedSource

ROOT = Path(__file__).parents[3]
SMALL = {"source": "pattern://digits?size=320x240&fps=30", "workers": 1}


def settings(**given):
    return load_settings({**SMALL, **given}, environment={})


@pytest.fixture
def one_model(monkeypatch):
    monkeypatch.setattr(selftest, "shipped_models", lambda: [(SHIPPED / "mnist.npz", None)])


def found(step, **given):
    tried = Tried(settings(**given), 0.5)
    return {finding.name: finding for finding in step(tried)}, tried


def played(monkeypatch, *script, **options):
    source = ScriptedSource(*script, **options)
    monkeypatch.setattr(selftest, "build_source", lambda settings, model: source)
    return source


@pytest.mark.slow
def test_all_of_it_is_tried_and_what_the_doctor_found_comes_first(one_model, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    findings = selftest.selftest(settings(), 1.0, look=lambda: [ok("machine", "a test")])
    names = [finding.name for finding in findings]
    assert names[0] == "machine"
    assert {"load", "matrix product", "shared memory", "camera", "camera rate", "picture", "model mnist"} < {*names}
    by_name = {finding.name: finding for finding in findings}
    assert by_name["camera"].detail.startswith("pattern digits 320x240 at 30 fps")
    assert "= predicted" in by_name["whole run"].detail
    assert "ms a frame" in by_name["model mnist"].detail
    assert not [finding for finding in findings if finding.verdict is CheckStatus.FAIL]


def test_a_camera_that_is_not_there_fails_and_the_models_say_why_they_were_not_tried(monkeypatch):
    monkeypatch.setattr(selftest, "_OPEN_PATIENCE", 0.1)
    told, tried = found(selftest._camera, source="v4l2://97")
    assert told["camera"].verdict is CheckStatus.FAIL
    assert "no camera at /dev/video97" in told["camera"].detail
    (finding,) = selftest._models(tried)
    assert finding.verdict is CheckStatus.WARN
    assert "no frames" in finding.detail


@pytest.mark.parametrize(("level", "words"), [(0, "black"), (127, "one colour")])
def test_a_image_without_anything_in_it_is_pointed_out(monkeypatch, level, words):
    source = played(monkeypatch, 1000, interval=0.02)
    source.level = level
    told, _ = found(selftest._camera)
    assert told["picture"].verdict is CheckStatus.WARN
    assert words in told["picture"].detail
    assert source.closed


def test_a_camera_slower_than_asked_is_pointed_out_with_the_cause(monkeypatch):
    source = played(monkeypatch, 1000, interval=0.1)
    source.fps = 30.0
    monkeypatch.setattr(ScriptedSource, "slowness", "low light, it exposes 90 ms a frame")
    told, _ = found(selftest._camera)
    assert told["camera rate"].verdict is CheckStatus.WARN
    assert "low light" in told["camera rate"].detail


def test_a_short_file_is_tried_to_its_end(monkeypatch):
    played(monkeypatch, 3, live=False)
    told, tried = found(selftest._camera)
    assert told["camera"].verdict is CheckStatus.OK
    assert len(tried.shots) == 3


def test_a_damaged_model_fails_alone(monkeypatch):
    played(monkeypatch, 5, live=False)
    _, tried = found(selftest._camera)
    load = selftest.load_model

    def damaged(settings):
        if settings.model == "lenet":
            raise ModelError("lenet.npz is cut short")
        return load(settings)

    monkeypatch.setattr(selftest, "load_model", damaged)
    failed = {finding.name for finding in selftest._models(tried) if finding.verdict is CheckStatus.FAIL}
    assert failed == {"model lenet"}


def test_slow_products_and_a_busy_machine_are_pointed_out(monkeypatch):
    monkeypatch.setattr(selftest, "_MIN_GFLOPS", 1e9)
    told, _ = found(selftest._blas)
    assert "libopenblas0-pthread" in told["matrix product"].remedy
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    told, _ = found(selftest._load)
    assert told["load"].verdict is CheckStatus.WARN


def test_memory_that_cannot_be_had_fails(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    told, _ = found(selftest._shared_memory)
    assert told["shared memory"].verdict is CheckStatus.FAIL


def test_a_step_that_breaks_does_not_silence_the_others(monkeypatch):
    def _odd_part(tried):
        raise ZeroDivisionError("oops")
        yield

    monkeypatch.setattr(selftest, "STEPS", (_odd_part, STEPS[0]))
    findings = selftest.selftest(settings(), 0.5, look=lambda: [])
    assert [finding.name for finding in findings] == ["odd part", "load"]
    assert findings[0].verdict is CheckStatus.FAIL
    assert "oops" in findings[0].detail


def test_nobodys_name_home_or_password_is_in_the_report(monkeypatch):
    monkeypatch.setattr(selftest, "STEPS", ())
    monkeypatch.setattr(selftest.getpass, "getuser", lambda: "erika")
    monkeypatch.setattr(selftest.Path, "home", lambda: Path("/data/erika"))
    looked = [
        ok("python", "3.13, /data/erika/camapp/.venv/bin/python"),
        warn("groups", "erika is not in video", "sudo usermod -aG video erika"),
        fail("camera", "rtsp://admin:secret@10.0.0.3/live?token=abc does not answer", "look at /home/otto/x"),
    ]
    report = markdown(selftest.selftest(settings(), 0.5, look=lambda: looked))
    for word in ("erika", "secret", "abc", "otto"):
        assert word not in report
    assert "~/camapp/.venv/bin/python" in report
    assert "rtsp://***@10.0.0.3/live?***" in report


def test_the_report_is_a_table_with_its_verdict_above():
    report = markdown([ok("a", "x | y\nz"), warn("b", "", "do it"), fail("c", "", "")])
    lines = report.splitlines()
    assert lines[0].endswith("selftest: 1 failed, 1 to look at")
    assert lines[4] == "| ok | a | x \\| y z |  |"
    assert len(lines) == 7
    assert verdict([ok("a", "")]) == "all is well"


@pytest.mark.parametrize(
    ("finding", "well"), [(ok("a", ""), True), (warn("a", "", ""), True), (fail("a", "", ""), False)]
)
def test_only_what_fails_makes_it_fail(monkeypatch, capsys, finding, well):
    monkeypatch.setattr(selftest, "selftest", lambda settings, seconds: [finding])
    assert selftest.run_selftest(settings(), 1.0, as_json=True) is well
    assert json.loads(capsys.readouterr().out)["findings"][0]["verdict"] == finding.verdict
    selftest.run_selftest(settings(), 1.0, as_json=False)
    assert "| a |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("source", "code"), [("pattern://digits?size=320x240", 0), ("no-such-video.mp4", 1)])
def test_the_command_ends_with_whether_all_is_well(tmp_path, source, code):
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}
    done = subprocess.run(
        [sys.executable, "-m", "camapp", "selftest", "--source", source, "--seconds", "1", "--json"],
        env=environment | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    failed = [name for name, finding in findings.items() if finding["verdict"] == "fail"]
    assert done.returncode == bool(failed) == code, done.stdout
    assert ("camera" in failed) == bool(code)
