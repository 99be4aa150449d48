"""ResNet-50 finds the cat on a photo, from every model file format, with `classify` and with `run`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.runtime.convert import save

ROOT = Path(__file__).parents[4]
IMAGENET = ROOT.parent / "shared" / "data" / "imagenet"
CAT = IMAGENET / "photos" / "cat.jpg"
CATS = ("tiger cat", "tabby cat", "Egyptian Mau")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not IMAGENET.exists(), reason="the real ResNet-50 and its photos are missing"),
]


def camapp(command: str, *arguments: str, model: Path) -> str:
    labels = ("--labels", str(IMAGENET / "labels.json"), "--net", "resnet50", "--workers", "1")
    parts = [sys.executable, "-m", "camapp", command, *arguments, "--model", str(model), *labels]
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(parts, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=[".npz", ".safetensors", ".onnx", ".pth"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == ".npz":
        return IMAGENET / "resnet50.npz"
    path: Path = tmp_path_factory.mktemp("cat") / f"resnet50{request.param}"
    loaded = engine.load(IMAGENET / "resnet50.npz")
    if request.param == ".pth":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.tensor(array) for name, array in loaded.graph.initializers.items()}, path)
    else:
        save(loaded, path)
    return path


def test_classify_prints_five_labels_and_a_cat_is_the_first(model: Path) -> None:
    lines = camapp("classify", str(CAT), model=model).splitlines()
    assert lines[0].endswith(f"cat.jpg (889x500): {CATS[0]}")
    found = [re.fullmatch(r" +(\d+\.\d)% +(.+)", line) for line in lines[1:6]]
    assert [match and match[2] for match in found][:3] == ["tiger cat", "Egyptian Mau", "tabby cat"]
    assert [float(match[1]) for match in found if match] == pytest.approx([50.4, 27.6, 20.0, 0.9, 0.3], abs=0.11)


def test_run_gives_the_same_labels(model: Path) -> None:
    record = json.loads(camapp("run", "--source", str(CAT), "--log", "-", model=model).splitlines()[0])
    assert record["label"] == "tiger cat"
    assert {label for label, _ in record["top"]} == set(CATS)
