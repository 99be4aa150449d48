"""`camapp models get` fetches a published file once its licence is accepted; `camapp models` lists what there is."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from camapp import cli
from camapp.commands import models
from camapp.core import model_table
from camapp.core.model_table import known_models
from camapp.core.models import SHIPPED, BadModel, model_path
from camapp.system.download import DownloadError
from tests.camapp.file_server import server

ROOT = Path(__file__).parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    return tmp_path / "cache" / "camapp" / "models"


@pytest.fixture
def served():
    with server(body=(SHIPPED / "mnist.npz").read_bytes()) as made:
        yield made


@pytest.fixture
def known(served, monkeypatch):
    """A published model that a server on this machine has; its file is that of a shipped one."""
    body = served.body
    card = {"task": "digits", "labels": tuple("0123456789"), "licence": "MIT (somebody)", "accuracy": {"MNIST": 0.98}}
    made = dataclasses.replace(
        known_models()["ultraface"],
        name="tiny",
        file="tiny-1.npz",
        url=served.url,
        sha256=hashlib.sha256(body).hexdigest(),
        size=len(body),
        card=card,
    )
    table = {"tiny": made, **known_models()}
    for module in (model_table, models, sys.modules["camapp.core.models"]):
        monkeypatch.setattr(module, "known_models", lambda: table)
    return made


def test_a_model_is_fetched_with_its_licence_shown_and_then_used(known, served, cache, capsys):
    models.get_models(["tiny"], accepts=True)
    assert (cache / "tiny-1.npz").read_bytes() == served.body
    shown = capsys.readouterr().err
    assert shown.index("MIT (somebody)") < shown.index("is complete; try it: camapp --model tiny")
    assert known.licence_url in shown
    assert served.url in shown
    models.get_models(["tiny"])
    assert "tiny is here already" in capsys.readouterr().err
    assert len(served.requested) == 1


def test_without_consent_nothing_is_fetched(known, served, cache, monkeypatch):
    with pytest.raises(models.GetError, match="--yes accepts the licence"):
        models.get_models(["tiny"])
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    with pytest.raises(models.GetError, match="nothing was fetched"):
        models.get_models(["tiny"])
    assert served.requested == []
    assert not cache.exists()
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    models.get_models(["tiny"])
    assert (cache / "tiny-1.npz").exists()


def test_unknown_names_are_refused_before_anything_is_fetched(known, served):
    with pytest.raises(models.GetError, match="no published model 'resnet19': there are tiny, mobilenet_v3_small"):
        models.get_models(["tiny", "resnet19"], accepts=True)
    assert served.requested == []


def test_a_changed_file_of_the_publisher_is_refused_and_the_remedy_named(known, served, cache):
    served.body = served.body[:-1] + b"x"
    with pytest.raises(DownloadError, match=rf"it changed.*put it at {cache}/tiny-1\.npz"):
        models.get_models(["tiny"], accepts=True)
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(known, served, cache):
    cache.mkdir(parents=True)
    (cache / "tiny-1.npz").write_bytes(bytes(len(served.body)))
    models.get_models(["tiny"], accepts=True)
    assert (cache / "tiny-1.npz").read_bytes() == served.body


def test_a_file_put_there_by_hand_counts(known, served, cache, capsys):
    cache.mkdir(parents=True)
    (cache / "tiny-1.npz").write_bytes(served.body)
    models.get_models(["tiny"])
    assert "is here already" in capsys.readouterr().err
    assert served.requested == []


def test_a_command_that_lacks_a_model_offers_it_on_a_terminal(known, served, cache, monkeypatch):
    calls = []

    def command() -> None:
        calls.append(model_path("tiny"))

    with pytest.raises(BadModel, match="'camapp models get tiny' fetches it"):
        cli._run_or_fetch(command)
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    cli._run_or_fetch(command)
    assert calls == [cache / "tiny-1.npz"]


def test_the_list_has_what_ships_what_is_fetched_and_what_can_be(known, served, cache, capsys):
    models.print_models(as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["digits"]["state"] == "shipped"
    assert rows["digits"]["mmac"] == 4.06
    assert rows["tiny"]["state"] == rows["resnet18"]["state"] == "to fetch"
    assert rows["resnet18"].keys() >= {"licence", "url", "sha256", "bytes", "accuracy", "labels", "terms", "fit"}
    models.get_models(["tiny"], accepts=True)
    capsys.readouterr()
    models.print_models(as_json=False)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "fetched" in lines["tiny"]
    assert "15,470" in lines["vgg16"]
    assert "71.6%" in lines["vgg16"]


def test_the_program_names_file_and_address_where_there_is_no_network(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "camapp", "models", "get", "yolox_nano", "--yes"],
        cwd=ROOT,
        env={"PATH": "", "XDG_CACHE_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 69
    last = done.stderr.splitlines()[-1]
    assert last.startswith("camapp: cannot download https://github.com/Megvii-BaseDetection/YOLOX/releases/")
    assert last.endswith(f"put it at {tmp_path}/camapp/models/yolox_nano.onnx")
    assert "Apache-2.0" in done.stderr
