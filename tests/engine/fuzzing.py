"""Runs thousands of damaged files against the readers, in a separate process with limited memory.

    python -m tests.engine.fuzzing FOLDER COUNT SEED

FOLDER holds one whole file of each format. Each damaged one must load or give a ModelError, within 200 MB; a summary
is printed as JSON. What breaks that rule is left in FOLDER as `culprit` with the format's suffix.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine.formats import npz, onnx, read, safetensors, text_dump, torch_checkpoint
from engine.graph import ModelError

DUMP = "resnet50_layer4_bottleneck2_bn3_running_var.txt"
# .pt: as PyTorch wrote it before 1.6.
FILES = {
    ".npz": "m.npz",
    ".safetensors": "m.safetensors",
    ".onnx": "m.onnx",
    ".pth": "m.pth",
    ".pt": "m.pt",
    ".txt": DUMP,
}
MAX_MEMORY = 200 << 20
LOADED_BEFOREHAND = (npz, onnx, safetensors, text_dump, torch_checkpoint)  # imports would count as memory of the first


def mutated(whole: bytes, state: np.random.RandomState) -> bytes:
    """Cut, flipped, overwritten or with a piece moved, mostly in the headers, where it hurts."""
    data, kind = bytearray(whole), state.randint(5)
    ends = [
        state.randint(len(data)),
        state.randint(min(2000, len(data))),
        len(data) - 1 - state.randint(min(2000, len(data))),
    ]
    place = ends[state.randint(3)]
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        data[place] ^= 1 << state.randint(8)
    elif kind == 2:
        data[place : place + 8] = state.bytes(8)
    elif kind == 3:
        data[place : place + 4] = b"\xff\xff\xff\x7f"
    else:
        other = ends[state.randint(3)]
        data[place : place + 16] = data[other : other + 16]
    return bytes(data)


def fuzz(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """For each format how many files loaded, how many were refused, and the CPU seconds of the slowest."""
    wholes = {suffix: (folder / name).read_bytes() for suffix, name in FILES.items()}
    state = np.random.RandomState(seed)
    found = {suffix: {"loaded": 0, "refused": 0, "slowest": 0.0} for suffix in FILES}
    dump = folder / "dump"
    dump.mkdir()
    for index in range(count):
        suffix = list(FILES)[index % len(FILES)]
        path = dump / DUMP if suffix == ".txt" else folder / f"fuzzed{suffix}"
        data = mutated(wholes[suffix], state)
        path.write_bytes(data)
        start = time.process_time()
        try:
            read(dump) if suffix == ".txt" else engine.load(path)
            found[suffix]["loaded"] += 1
        except ModelError as error:
            if _ran_out_of_memory(error):
                (folder / f"culprit{suffix}").write_bytes(data)
                raise
            found[suffix]["refused"] += 1
        except BaseException:
            (folder / f"culprit{suffix}").write_bytes(data)
            raise
        found[suffix]["slowest"] = max(found[suffix]["slowest"], time.process_time() - start)
    return found


def _ran_out_of_memory(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, MemoryError) or _ran_out_of_memory(error.__cause__))


def main() -> None:
    size = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert size is not None
    limit = (int(size[1]) << 10) + MAX_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps(fuzz(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))


if __name__ == "__main__":
    main()
