"""Damaged and hostile files in all formats: fuzzed, too large, or out of memory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from engine import ModelCard, ModelError
from engine.formats import read
from engine.runtime.convert import save
from tests.engine import fuzzing, net_cases
from tests.engine.nets.test_nets import model


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_an_archive_of_too_many_entries_is_refused_before_they_become_objects(tmp_path: Path, suffix: str) -> None:
    names = [b"%08d.npy" % index for index in range(100_000)]
    fixed = (b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0)
    entries = [struct.pack("<4s4B4HL2L5H2L", *fixed, len(name), *(0,) * 6) + name for name in names]
    directory = b"".join(entries)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(directory), 0, 0)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(directory + end)
    tracemalloc.start()
    with pytest.raises(ModelError, match="an archive with a directory"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors", ".onnx"])
def test_running_out_of_memory_is_reported_as_such(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    for name in ("npz.zipfile.ZipFile", "safetensors.parse_safetensors", "onnx.parse_onnx"):
        monkeypatch.setattr(f"engine.formats.{name}", no_memory)
    (tmp_path / f"a{suffix}").write_bytes(bytes(100))
    with pytest.raises(ModelError, match="not enough memory"):
        read(tmp_path / f"a{suffix}")


# Damage


def fuzz(folder: Path, count: int, seed: int) -> None:
    """Damage a small file of each format `count` times in all, in a process that must not take more than 200 MB."""
    torch = pytest.importorskip("torch")
    original = model("mnist")
    card = ModelCard("mnist", "digits", (1, 28, 28), colour="GRAY")
    for suffix in (".npz", ".safetensors", ".onnx"):
        save(type(original)(card, original.graph), folder / fuzzing.FILES[suffix])
    state = {name: torch.from_numpy(array) for name, array in net_cases.weights("mnist").items()}
    torch.save(state, folder / fuzzing.FILES[".pth"])
    torch.save(state, folder / fuzzing.FILES[".pt"], _use_new_zipfile_serialization=False)
    lines = "\n".join(f"{number:.18e}" for number in np.random.RandomState(0).uniform(0, 2, 2048))
    (folder / fuzzing.DUMP).write_text(f"{lines}\n")
    command = [sys.executable, "-W", "ignore", "-m", "tests.engine.fuzzing", str(folder), str(count), str(seed)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parents[3], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    for each in found.values():
        assert each["loaded"] + each["refused"] == count // len(found)
        assert each["refused"] > count / len(found) / 8
        assert each["slowest"] < 1


def test_damaged_files_load_or_give_a_model_error_and_stay_within_bounds(tmp_path: Path) -> None:
    fuzz(tmp_path, 600, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thousands_of_damaged_files(tmp_path: Path) -> None:
    fuzz(tmp_path, 24_000, 2)


def test_the_fuzzer_finds_a_reader_that_takes_too_much_memory(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from tests.engine import fuzzing\n"
        "fuzzing.fuzz = lambda *_: np.ones(60 << 20, np.float32)\n"
        "fuzzing.main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "1", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.returncode != 0
    assert "MemoryError" in done.stderr
