"""Targets that are no plain files, and two runs with one target."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from camapp.commands.classify import files as module
from camapp.commands.classify.files import Results, ResultsError, Target
from camapp.commands.classify.formats import HEADERS

ROOT = Path(__file__).parents[4]


def opened(path, resume=False):
    results = Results([Target(path, "csv")], "mnist", resume)
    results.open()
    return results


def test_a_descriptor_is_written_to_where_it_stands(tmp_path):
    script = (
        "import os; from pathlib import Path; from camapp.commands.classify.files import Results, Target\n"
        "os.write(1, b'before\\n'); results = Results([Target(Path('/dev/stdout'), 'csv')], 'mnist', False)\n"
        "results.open(); results.write({'csv': b'line\\n'}); results.close(); os.write(1, b'after\\n')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", script], check=True, stdout=out, cwd=ROOT, timeout=60)
    assert (tmp_path / "out").read_text() == "before\n" + HEADERS["csv"] + "line\nafter\n"


def test_a_pipe_is_written_once_it_has_a_reader_and_never_waited_for_without_end(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    results = opened(tmp_path / "pipe")
    results.write({"csv": b"line\n"})
    results.close()
    reader.join(10)
    assert read == [HEADERS["csv"].encode() + b"line\n"]
    monkeypatch.setattr(module, "_READER_S", 0.1)
    with pytest.raises(ResultsError, match="no program reads this pipe"):
        opened(tmp_path / "pipe")


def test_two_runs_cannot_continue_one_file(tmp_path):
    first = opened(tmp_path / "out.csv")
    with pytest.raises(ResultsError, match=rf"process {os.getpid()}\) writes it; choose another name"):
        opened(tmp_path / "out.csv", resume=True)
    first.close()
    opened(tmp_path / "out.csv", resume=True).close()
    assert os.listdir(tmp_path) == ["out.csv"]
