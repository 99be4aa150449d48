import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import engine.model
from tests.weights.made_data import write_cifar10, write_mnist

ROOT = Path(__file__).resolve().parents[2]


def weights(*arguments, **environment):
    """Run the command line as a user does and return the completed process."""
    return subprocess.run(
        [sys.executable, "-m", "weights", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def without(module, folder):
    """Return environment variables with which importing `module` fails as if it were not installed."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.slow
def test_training_writes_a_bundle_that_loads_and_evaluates(tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib (the extra 'train') is not installed")
    write_mnist(tmp_path / "data", 1000)
    out = tmp_path / "new" / "mine.npz"
    done = weights("train", "mnist", "--data", tmp_path / "data", "--out", out, "--epochs", 2, "--seed", 7,
                   "--threads", 1, "--plots", tmp_path / "plots")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stdout
    assert f"wrote {out}" in done.stdout.replace("\n", "")
    model = engine.model.load(out)
    assert model.card.task == "digits"
    assert model.card.accuracy == {"mnist test split, last 100 of train": pytest.approx(1, abs=0.3)}
    assert "epochs=2" in model.card.recipe
    assert "seed=7" in model.card.recipe
    assert model.card.licence
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "mnist_confusion.png", "mnist_curves.png", "mnist_pictures.png"
    ]  # fmt: skip
    assert not out.with_suffix(".checkpoint").exists()

    seen = weights("evaluate", out, "--data", tmp_path / "data")
    assert seen.returncode == 0, seen.stderr
    accuracy = next(iter(model.card.accuracy.values()))
    assert f"{accuracy:.2%}" in seen.stdout
    assert "images/s" in seen.stdout


def test_an_evaluation_writes_a_markdown_report(tmp_path):
    write_mnist(tmp_path / "data", 300)
    report = tmp_path / "new" / "report.md"
    done = weights("evaluate", "weights/mnist.npz", "--data", tmp_path / "data", "--report", report, "--workers", 1)
    assert done.returncode == 0, done.stderr
    text = report.read_text()
    assert text.startswith("# weights/mnist.npz on the mnist test split\n")
    accuracy = text.split("**")[1]
    assert accuracy in done.stdout
    assert f"| all | 30 | {accuracy} |" in text
    assert "images/s with 1 worker(s)" in text
    assert f"- command: `{sys.executable} -m camapp evaluate weights/mnist.npz --data {tmp_path / 'data'}" in text
    assert "Rows are the truth" in text
    assert [path.name for path in report.parent.iterdir()] == ["report.md"]


@pytest.mark.slow
def test_a_colour_net_can_be_trained(tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")
    write_cifar10(tmp_path, 20)
    done = weights(
        "train", "cifar10_plain", "--data", tmp_path, "--out", tmp_path / "c.npz", "--epochs", 1, "--threads", 1
    )
    assert done.returncode == 0, done.stderr
    assert engine.model.load(tmp_path / "c.npz").card.labels[0] == "airplane"


@pytest.mark.slow
def test_custom_classes_are_learnt_and_used_by_the_application(tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")
    for label, colour in (("red", (30, 30, 220)), ("green", (40, 200, 50)), ("Blue thing", (210, 60, 30))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(20):
            image = np.full((48, 64, 3), 60 + 5 * index, np.uint8)
            cv2.circle(image, (24 + index, 24), 12, colour, -1)
            cv2.imwrite(str(tmp_path / "data" / label / f"{index}.png"), image)
    out = tmp_path / "my.npz"
    done = weights("train", "folder", tmp_path / "data", "--out", out, "--epochs", 25, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert f"camapp --model {out}" in done.stdout.replace("\n", "")
    card = engine.model.load(out).card
    assert card.labels == ("Blue thing", "green", "red")
    assert card.accuracy == {"validation, last 12 of 60 images": pytest.approx(1, abs=0.2)}
    assert card.recipe.startswith("python -m weights train folder with FineTuning(net='cifar10'")
    seen = subprocess.run(
        [sys.executable, "-m", "camapp", "classify", str(tmp_path / "data"), "--model", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    right = sum("(is " not in line for line in seen.stdout.splitlines())
    assert right >= 50
    refused = weights("evaluate", out)
    assert refused.returncode == 78
    command = f"{sys.executable} -m camapp classify FOLDER"
    assert refused.stderr.startswith(f"error: the model has its own classes: '{command}")


@pytest.mark.slow
def test_an_interrupted_run_resumes(tmp_path):
    pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")
    write_mnist(tmp_path / "data", 3000)
    arguments = ["train", "mnist", "--data", tmp_path / "data", "--epochs", 12, "--threads", 1]
    whole, parts = tmp_path / "whole.npz", tmp_path / "parts.npz"
    assert weights(*arguments, "--out", whole).returncode == 0
    with subprocess.Popen(
        [sys.executable, "-m", "weights", *map(str, arguments), "--out", str(parts)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs have it ignored
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 40
        while not parts.with_suffix(".checkpoint").exists():
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=20)[1]
    assert process.returncode == 130, errors
    assert "--resume continues" in errors
    assert not parts.exists()
    done = weights(*arguments, "--out", parts, "--resume")
    assert done.returncode == 0, done.stderr
    assert engine.model.load(parts).card.sha256 == engine.model.load(whole).card.sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "folder"], "error: only 'train folder DATA' takes a folder of images"),
        (["train", "mnist", "photos"], "error: only 'train folder DATA' takes a folder of images"),
        (["train", "vgg"], "error: no recipe 'vgg'; available: mnist, digits, lenet,"),
        (["train", "mnist", "--out", "model.pth"], "error: --out model.pth: a model file's name ends in .npz"),
        (["train", "mnist", "--out", "/proc/none/model.npz"], "error: cannot make /proc/none"),
        (["evaluate", "absent.npz"], "error: absent.npz: cannot read the model: No such file or directory"),
    ],
)
def test_mistakes_print_one_line(arguments, message):
    done = weights(*arguments)
    assert done.returncode == 78
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_training_without_pytorch_prints_the_command_that_installs_it(tmp_path):
    done = weights("train", "mnist", "--out", tmp_path / "m.npz", **without("torch", tmp_path))
    assert done.returncode == 78
    assert done.stderr.startswith("error: training needs PyTorch, which is not installed: pip install -e '.[train]'")
    assert done.stderr.count("\n") == 1


def test_evaluating_needs_no_pytorch(tmp_path):
    write_mnist(tmp_path / "data", 100)
    done = weights("evaluate", "weights/mnist.npz", "--data", tmp_path / "data", **without("torch", tmp_path))
    assert done.returncode == 0, done.stderr


def test_damaged_data_print_one_line(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    done = weights("evaluate", "weights/mnist.npz", "--data", tmp_path)
    assert done.returncode == 78
    assert done.stderr.startswith(f"error: {path}: damaged or truncated")
    assert done.stderr.count("\n") == 1


def test_data_of_the_wrong_kind_print_one_line(tmp_path):
    write_cifar10(tmp_path)
    done = weights("evaluate", "weights/mnist.npz", "--data", tmp_path, "--dataset", "cifar10")
    assert done.returncode == 78
    assert done.stderr == "error: images of (3, 32, 32) do not fit a net that takes (1, 28, 28)\n"


def test_help_takes_less_than_a_second():
    spans = []
    for _ in range(3):
        before = os.times()
        assert "evaluate" in weights("--help").stdout
        spans.append(os.times().children_user - before.children_user)
    assert min(spans) < 1.0, "CPU time: 0.3 s on an idle machine"


def test_help_loads_no_heavy_module():
    code = "import sys, weights.__main__; print([m for m in ('numpy', 'torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
