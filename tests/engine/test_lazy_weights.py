"""Lazily loaded weights: nothing is held twice, plans release what they do not need, and it is reloaded on demand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import lazy_weights
from engine.formats import npz
from engine.graph import ModelError
from engine.lazy_weights import LazyWeights
from engine.runtime.convert import save
from tests.engine import net_cases
from tests.engine.nets.test_nets import model

ROOT = Path(__file__).parents[2]
RESNET50 = ROOT.parent / "shared" / "data" / "imagenet" / "resnet50.npz"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small bundle, of which a model lets go as of a large one."""
    monkeypatch.setattr(lazy_weights, "SMALL", 0)
    save(model("cifar10"), tmp_path / "a.npz")
    return tmp_path / "a.npz"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of the bundles that were read."""
    found: list[Path] = []
    read: Callable[[Path], object] = npz.read_bundle

    def counted(path: Path) -> object:
        found.append(path)
        return read(path)

    monkeypatch.setattr(npz, "read_bundle", counted)
    return found


def test_originals_are_read_again_when_a_plan_or_a_conversion_needs_them(file: Path, reads: list[Path]) -> None:
    loaded, images = engine.load(file), net_cases.images("cifar10")
    expected = model("cifar10").run(images)
    np.testing.assert_array_equal(loaded.run(images), expected)
    np.testing.assert_allclose(loaded.run(images[:1]), expected[:1], atol=1e-5)  # another batch needs none of them
    assert len(reads) == 1
    save(loaded, file.with_name("b.npz"))
    assert len(reads) == 2
    np.testing.assert_array_equal(engine.load(file.with_name("b.npz")).run(images), expected)


def test_a_file_that_took_the_place_of_the_one_loaded_is_not_taken_for_it(file: Path) -> None:
    loaded, images = engine.load(file), net_cases.images("cifar10")
    expected = loaded.run(images)
    save(model("cifar10"), file)
    np.testing.assert_array_equal(loaded.run(images), expected)  # what is planned runs on
    with pytest.raises(ModelError, match=r"a\.npz: the file has changed since it was loaded; load it again"):
        save(loaded, file.with_name("b.npz"))
    file.unlink()
    with pytest.raises(ModelError, match="has changed"):
        _ = loaded.graph.initializers["fc2.bias"]


def test_a_model_that_was_released_holds_nothing_and_can_be_planned_again(file: Path, reads: list[Path]) -> None:
    loaded, images = engine.load(file), net_cases.images("cifar10")
    plan, expected = loaded.plan(images.shape), model("cifar10").run(images)
    loaded.release()
    assert not loaded.prepared
    np.testing.assert_array_equal(plan.run(images), expected)
    assert len(reads) == 1
    np.testing.assert_array_equal(loaded.run(images), expected)
    assert len(reads) == 2


def test_small_models_are_kept_whole(tmp_path: Path) -> None:
    save(model("cifar10"), tmp_path / "a.npz")
    loaded = engine.load(tmp_path / "a.npz")
    loaded.plan()
    (tmp_path / "a.npz").unlink()
    assert isinstance(loaded.graph.initializers, LazyWeights)
    assert len(loaded.graph.initializers) == len(net_cases.weights("cifar10"))
    save(loaded, tmp_path / "b.npz")


PEAK = """
import re, sys
import numpy as np
import engine
model = engine.load(sys.argv[1])
if sys.argv[2] == "plan":
    model.plan().run()
else:
    model.run(np.zeros((1, 3, 224, 224), np.float32))
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not RESNET50.exists(), reason="the real ResNet-50 is not there")
@pytest.mark.parametrize(("suffix", "way"), [(".npz", "plan"), (".safetensors", "plan"), (".onnx", "run")])
def test_resnet50_never_takes_350_megabytes(tmp_path: Path, suffix: str, way: str) -> None:
    path = RESNET50
    if suffix != ".npz":
        path = tmp_path / f"net{suffix}"
        save(engine.load(RESNET50), path)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(2):  # timed, and by the times kept
        command = [sys.executable, "-c", PEAK, str(path), way]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
        found = re.fullmatch(r"(\d+)\n", done.stdout)
        assert found is not None
        assert int(found[1]) <= 350
