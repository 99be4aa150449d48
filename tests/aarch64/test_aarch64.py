"""The program on aarch64, emulated by qemu: every kernel on three cores of a Raspberry Pi, a live run, Debian's NumPy.

Slow (two minutes on an idle machine, four times as long on a busy one; once a download of a minute). Needs root,
systemd-nspawn, mmdebstrap and qemu-user-static with binfmt_misc. The root is kept in the user's cache folder; another
is named by CAMAPP_ARM64_ROOT. Times mean nothing there; results and illegal instructions do.

QEMU_CPU is always set: OpenBLAS takes the kernels of the core that it sees, and computes wrong on qemu's largest one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.scenes.scene import SceneOptions, scene_class
from tests.aarch64.arm64_root import MMDEBSTRAP, NAME, REQUIREMENTS, VARIABLE, pip_for_arm64
from tests.debian_root import ROOT, in_root, prepared

BINFMT = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
CORES = {"cortex-a53": "Pi 3", "cortex-a72": "Pi 4", "cortex-a76": "Pi 5"}
LIBRARIES = "/usr/lib/aarch64-linux-gnu"
# Largest difference of outputs, of the largest number: 6e-6 is found (Winograd), 1e-5 between two kernels on x86.
TOLERANCE = 2e-5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def add_wheels(root):
    """Install the wheels in /opt/site, and NumPy in /opt/numpy, so that a test can do without it."""
    done = pip_for_arm64(root / "opt/site", *REQUIREMENTS)
    if done.returncode:
        pytest.skip(f"no wheels could be installed: {done.stderr[-500:]}")
    (root / "opt/numpy").mkdir()
    for each in (root / "opt/site").glob("numpy*"):
        shutil.move(each, root / "opt/numpy")


@pytest.fixture(scope="module")
def pi(tmp_path_factory):
    """Return a function that runs Python in the root, with the folder `pi.exchange` at /exchange."""
    if not BINFMT.exists():
        pytest.skip(
            f"needs {BINFMT}: sudo apt install qemu-user-static binfmt-support; in a container also "
            "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; update-binfmts --enable qemu-aarch64"
        )
    root = prepared(VARIABLE, NAME, MMDEBSTRAP, add_wheels)
    exchange = tmp_path_factory.mktemp("exchange")

    def run(core, *arguments, path="/opt/numpy:/opt/site", libraries=""):
        settings = {
            "QEMU_CPU": core,
            "PYTHONPATH": f"/opt/camapp:{path}",
            "LD_LIBRARY_PATH": libraries,
            "ENGINE_CHOICES": "rule",
            "OPENBLAS_NUM_THREADS": "1",
        }
        options = [f"--setenv={name}={value}" for name, value in settings.items()]
        options += [f"--bind-ro={ROOT}:/opt/camapp", f"--bind={exchange}:/exchange", "--tmpfs=/tmp"]
        done = in_root(root, "/usr/bin/python3", *arguments, options=options, timeout=900)
        print(done.stdout, done.stderr)
        assert "llegal instruction" not in done.stderr
        assert done.returncode == 0, done.stderr
        return done

    run.exchange = exchange
    return run


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the outputs of the shipped nets on this machine, by the rule."""
    file = tmp_path_factory.mktemp("expected") / "here.npz"
    command = [sys.executable, str(ROOT / "tests/aarch64/run_nets.py"), str(file), "--rule"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300)
    return np.load(file)


def check(found, expected):
    """Compare outputs by NET/PLAN with those of the rule; return the number of plans."""
    plans = [key for key in found.files if key != "kernels"]
    worst = {}
    for key in plans:
        reference = expected[f"{key.partition('/')[0]}/rule"]
        assert np.isfinite(found[key]).all(), key
        assert found[key].argmax() == reference.argmax(), key
        worst[key] = float(np.abs(found[key] - reference).max() / np.abs(reference).max())
    print({key: f"{error:.1e}" for key, error in worst.items()})
    assert max(worst.values()) < TOLERANCE
    return len(plans)


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_all_requirements_have_wheels_for_aarch64(version, tmp_path):
    done = pip_for_arm64(tmp_path, *REQUIREMENTS, "--dry-run", version=version)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("core", CORES)
def test_every_kernel_computes_what_x86_does(pi, expected, core):
    pi(core, "/opt/camapp/tests/aarch64/run_nets.py", f"/exchange/{core}.npz")
    found = np.load(pi.exchange / f"{core}.npz")
    assert check(found, expected) > 3 * len(expected.files)
    kernels = {each.partition("=")[2] for each in found["kernels"]}
    print(len(found["kernels"]), "nodes with a kernel:", *sorted(kernels))
    assert {"winograd2", "winograd4", "winograd5", "winograd_rows", "rows_whole", "im2col", "bands"} <= kernels
    # Only cores with AVX-512 have products without packing.
    assert "rows_in_panels" not in kernels


BLAS = """
import sys
if sys.argv[1:]: import cv2
import numpy
from engine.kernels import blas
print(numpy.__version__, "|", blas.describe(), "|", blas.describe().warning)
"""


@pytest.mark.parametrize(
    ("folders", "library", "warning"),
    [(["openblas-pthread"], "openblas 0.3.21", ""), (["blas", "lapack"], "reference", "install libopenblas0-pthread")],
)
def test_debians_numpy_is_described_and_computes_right(pi, expected, folders, library, warning):
    """OpenCV's wheel brings an OpenBLAS of its own, which must not be taken for NumPy's."""
    debian = {"path": "/opt/site", "libraries": ":".join(f"{LIBRARIES}/{folder}" for folder in folders)}
    lines = {pi("cortex-a72", "-c", BLAS, *argument, **debian).stdout for argument in ([], ["cv2"])}
    assert len(lines) == 1
    numpy, described, advice = lines.pop().split("|")
    assert numpy.startswith("1.24")
    assert described.strip().startswith(library)
    assert warning in advice
    assert bool(warning) == bool(advice.strip())
    pi("cortex-a72", "/opt/camapp/tests/aarch64/run_nets.py", f"/exchange/{folders[0]}.npz", "--rule", **debian)
    assert check(np.load(pi.exchange / f"{folders[0]}.npz"), expected) == len(expected.files) - 1


def test_a_live_run_reads_the_digits(pi):
    options = ["--source", "pattern://digits?size=320x240", "--duration", "20", "--max-frames", "5", "--log", "-"]
    done = pi("cortex-a53", "-m", "camapp", "run", *options, "--workers", "1")
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert records
    assert [record["label"] for record in records] == [record["truth"]["label"] for record in records]
    assert "failed 0 + in flight 0" in done.stderr


def test_classify_finds_the_same_as_here(pi):
    scene = scene_class("digits")(SceneOptions(size=(640, 480), fps=30, seed=3, count=3))
    folder = pi.exchange / "scenes"
    folder.mkdir()
    for number in (0, 40, 80):
        cv2.imwrite(str(folder / f"{number}.png"), scene.render(number)[0][..., ::-1])
    options = ["-m", "camapp", "classify", "--workers", "1", "--truth", "none", "--jsonl", "-"]
    emulated = pi("cortex-a76", *options, "/exchange/scenes").stdout
    # The program refuses variables CAMAPP_... that are no settings of its own.
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    here = subprocess.run(
        [sys.executable, *options, folder], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert here.returncode == 0, here.stderr
    pairs = list(
        zip(*([json.loads(line) for line in text.splitlines()] for text in (emulated, here.stdout)), strict=True)
    )
    assert len(pairs) == 3
    for found, wanted in pairs:
        assert found["label"] == wanted["label"] != ""
        assert found["score"] == pytest.approx(wanted["score"], abs=1e-3)
        assert len(found["boxes"]) == len(wanted["boxes"])
        for box, other in zip(found["boxes"], wanted["boxes"], strict=True):
            assert box["label"] == other["label"]
            np.testing.assert_allclose(box["xyxy"], other["xyxy"], atol=1)
