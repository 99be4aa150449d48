"""`python -m engine`: info and run, and one line for what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.__main__ import main
from engine.graph import Graph, Node, Value
from engine.runtime.convert import save
from tests.engine import net_cases
from tests.engine.nets.test_nets import model


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    np.savez(tmp_path / "model.npz", **net_cases.weights("mnist"))
    return tmp_path / "model.npz"


def test_info_lists_layers_parameters_and_multiply_adds(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(bare)]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    assert rows["conv1"][:5] == ["conv1", "Conv", "1x10x24x24", "260", "144,000"]
    assert rows["fc"] == ["fc", "Gemm", "1x10", "14,410", "14,400", "gemm_node"]
    assert rows["arena"][2:] == ["bytes", "between", "inputs", "and", "outputs"]
    assert rows["total"] == ["total", "14,670", "158,400"]
    assert "1x28x28 GRAY" in printed


def test_run_writes_the_logits(bare: Path, tmp_path: Path) -> None:
    images = net_cases.images("mnist")
    np.save(tmp_path / "in.npy", images)
    assert main(["run", str(bare), str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), "--net", "mnist"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model("mnist").run(images))


def test_run_converts_float64_and_says_so_once(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = net_cases.images("mnist").astype(np.float64)
    np.save(tmp_path / "in.npy", images)
    assert main(["run", str(bare), str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), "--net", "mnist"]) == 0
    assert capsys.readouterr().err == f"engine: {tmp_path / 'in.npy'}: float64 was converted to float32\n"
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model("mnist").run(images.astype(np.float32)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((1, 1, 28, 28), 1e300), "expected float32, found float64 numbers that are too large"),
        (np.zeros((1, 1, 28, 28), int), "expected float32, found int64"),
        (np.zeros((2, 2), np.float32), "found (2, 2)"),
    ],
)
def test_run_refuses_other_arrays_in_one_line(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "in.npy", array)
    assert main(["run", str(bare), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]) == 78
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out.npy").exists()


def test_an_input_file_that_is_no_array_gives_one_line(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in (b"", b"nonsense", bare.read_bytes()):
        (tmp_path / "in.npy").write_bytes(content)
        assert main(["run", str(bare), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]) == 78
        assert capsys.readouterr().err.count("\n") == 1


def test_help_does_not_import_numpy() -> None:
    code = "import sys, engine.__main__; engine.__main__.build_parser(); sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=60)


def test_workers_import_no_reader_of_files_and_no_builder_of_nets() -> None:
    code = (
        "import sys, engine.runtime.shared_model; print(*(name for name in sys.modules if name.startswith('engine.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    found = done.stdout.split()
    assert "engine.model" in found
    unwanted = ("engine.formats", "engine.nets", "engine.reference", "engine.interpreter")
    assert not [name for name in found if name.startswith(unwanted)]


def test_the_package_offers_its_public_names() -> None:
    assert [getattr(engine, name).__name__ for name in engine.__all__] == engine.__all__
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = engine.lod


def test_a_model_that_is_none_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.npz").write_bytes(b"nonsense")
    assert main(["info", str(tmp_path / "bad.npz")]) == 78
    assert capsys.readouterr().err.startswith("engine: ")


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".npz"])
def test_convert_writes_a_file_for_which_info_prints_the_same(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    assert main(["info", str(bare)]) == 0
    expected = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] != ["sha256"]]
    assert main(["convert", str(bare), str(tmp_path / f"other{suffix}")]) == 0
    assert "net mnist" in capsys.readouterr().out
    assert main(["info", str(tmp_path / f"other{suffix}")]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] != ["sha256"]] == expected


def test_convert_to_what_cannot_be_written_gives_one_line(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(bare), str(tmp_path / "other.pth")]) == 78
    assert "cannot write '.pth' files; supported are .npz, .safetensors, .onnx" in capsys.readouterr().err


def test_info_distinguishes_nodes_with_the_same_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"v": np.ones((4, 3, 3, 3), np.float32), "w": np.ones((2, 4, 3, 3), np.float32)}
    nodes = (Node("Conv", ("x", "v"), ("a",), {}, "n"), Node("Conv", ("a", "w"), ("y",), {}, "n"))
    graph = Graph("g", (Value("x", (1, 3, 8, 8)),), (Value("y", ()),), nodes, initializers=weights)
    save(engine.Model(engine.ModelCard("g", "classify", (3, 8, 8)), graph), tmp_path / "g.onnx")
    assert main(["info", str(tmp_path / "g.onnx")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("n (")]
    assert [(row[1], row[4], row[5]) for row in rows] == [("(a)", "108", "3,888"), ("(y)", "72", "1,152")]


def test_info_into_a_closed_pipe_is_no_error(bare: Path) -> None:
    command = [sys.executable, "-m", "engine", "info", str(bare)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.close()
        assert process.wait(60) == 0
        said = process.stderr.read()
    assert b"taken for net" in said  # the file has no card
    assert b"Error" not in said
