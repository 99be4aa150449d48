"""Tests the environment and command of a child process."""

import json
import os
import sys
from pathlib import Path

from camapp.system.supervised_process import ChildProcess

ROOT = Path(__file__).parents[3]


def environment_and_command(*arguments, **options):
    """Start a child that prints both into a pipe, and return them."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as output:
        script = f"import json, os, sys; os.write({writing}, json.dumps([dict(os.environ), sys.argv[1:]]).encode())"
        wrapper = (sys.executable, "-c", script)
        child = ChildProcess("camapp.none", *arguments, fds=[writing], wrapper=wrapper, **options)
        os.close(writing)
        environment, command = json.loads(output.read())
        assert child.end(20) == 0
    return environment, command


def test_a_child_finds_our_packages_before_the_users_and_imports_nothing_from_its_folder(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/users")
    environment, command = environment_and_command("7", "a b")
    assert environment["PYTHONPATH"] == f"{ROOT}:/users"
    assert command[:4] == [sys.executable, "-P", "-m", "camapp.none"]
    assert command[4].isdecimal()
    assert command[5:] == ["7", "a b"]


def test_its_number_of_blas_threads_does_not_depend_on_the_parents(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    environment, _ = environment_and_command(threads=2)
    assert (environment["OPENBLAS_NUM_THREADS"], environment["OMP_NUM_THREADS"]) == ("2", "2")


def test_the_users_environment_has_precedence(monkeypatch):
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    assert environment_and_command(environment={"QT_QPA_PLATFORM": "xcb"})[0]["QT_QPA_PLATFORM"] == "xcb"
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    assert environment_and_command(environment={"QT_QPA_PLATFORM": "xcb"})[0]["QT_QPA_PLATFORM"] == "offscreen"
