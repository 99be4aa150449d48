"""What a process of ours finds when it starts."""

import json
import os
import sys
from pathlib import Path

from camapp.system.process import start_child

ROOT = Path(__file__).parents[3]


def told(*arguments, **options):
    """What a child that prints its environment and command into a pipe says."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as answer:
        script = f"import json, os, sys; os.write({writing}, json.dumps([dict(os.environ), sys.argv[1:]]).encode())"
        before = (sys.executable, "-c", script)
        child = start_child("camapp.none", *arguments, fds=[writing], before=before, **options)
        os.close(writing)
        environment, command = json.loads(answer.read())
        assert child.wait(20) == 0
    return environment, command


def test_it_finds_our_packages_before_the_users_and_imports_nothing_from_where_it_is(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    environment, command = told("7", "a b")
    assert environment["PYTHONPATH"] == f"{ROOT}:/theirs"
    assert command == [sys.executable, "-P", "-m", "camapp.none", "7", "a b"]


def test_its_blas_threads_are_set_whatever_the_parents_are(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    environment, _ = told(threads=2)
    assert (environment["OPENBLAS_NUM_THREADS"], environment["OMP_NUM_THREADS"]) == ("2", "2")


def test_the_user_outranks_what_it_would_find(monkeypatch):
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    assert told(environment={"QT_QPA_PLATFORM": "xcb"})[0]["QT_QPA_PLATFORM"] == "xcb"
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert told(environment={"QT_QPA_PLATFORM": "xcb"})[0]["QT_QPA_PLATFORM"] == "offscreen"
