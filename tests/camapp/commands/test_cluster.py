"""Classifying on a real Dask cluster of two local worker processes."""

import json
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.commands.classify.command import grouped
from camapp.commands.classify.job import FilesJob, FilesOptions
from camapp.commands.cluster import classify_on_cluster
from camapp.core.errors import PoolError, SettingsError
from camapp.core.models import load_model
from camapp.core.settings import load_settings
from camapp.tasks.task import TaskOptions

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = FilesOptions(TaskOptions(smoothing=0), 8, "auto", ("jsonl",), "mnist")


@pytest.fixture(scope="module")
def model():
    return load_model(load_settings({}, environment={}))


@pytest.fixture
def files(tmp_path):
    """Write 60 digits, one of them no image; return their names 30 times."""
    for index in range(60):
        image = np.zeros((28, 28), np.uint8)
        cv2.putText(image, str(index % 10), (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
        cv2.imwrite(str(tmp_path / f"{index}_{index % 10}.png"), image)
    (tmp_path / "33_3.png").write_bytes(b"")
    return [str(tmp_path / f"{index}_{index % 10}.png") for index in range(60)] * 30


@pytest.mark.slow
def test_a_killed_cluster_worker_neither_loses_nor_doubles_an_image(model, files, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="Dask (the extra 'cluster') is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        with distributed.Client(local) as client:
            pids = list(client.run(os.getpid).values())
        assert len(set(pids)) == 2
        found = []
        reads = classify_on_cluster(model, OPTIONS, grouped(files, lambda: 8), local.scheduler_address, 60)
        for number, read in enumerate(reads):
            found += [json.loads(line) for line in read.lines["jsonl"].splitlines()]
            if number == 40:
                os.kill(pids[0], signal.SIGKILL)
    assert [row["file"] for row in found] == files
    local_rows = {row.file: row for row in FilesJob(model, OPTIONS).rows(files[:60])}
    for row in found:
        expected = local_rows[row["file"]]
        assert row["error"] == expected.error
        assert row["label"] == (expected.prediction.label if expected.prediction else "")


@pytest.mark.slow
def test_an_unreachable_cluster_gives_one_line(model, files):
    pytest.importorskip("distributed", reason="Dask (the extra 'cluster') is not installed")
    with pytest.raises(PoolError, match=r"no Dask cluster with workers at tcp://127\.0\.0\.1:9"):
        next(classify_on_cluster(model, OPTIONS, [files[:1]], "tcp://127.0.0.1:9", 5, connect_timeout=1.0))


def test_without_dask_the_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r"pip install 'camapp\[cluster\]'"):
        next(classify_on_cluster(model, OPTIONS, [], "tcp://127.0.0.1:9", 5))
