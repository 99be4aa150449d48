"""Text dumps of a ResNet-50: what is read, written and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import ModelError, nets
from engine.formats import read
from engine.formats.text_dump import write_text_dump
from engine.graph import Array
from engine.runtime.convert import save
from tests.engine.formats.assertions import assert_same
from tests.engine.nets.test_nets import model

# Text dumps


def write_dump(folder: Path, arrays: dict[str, Array]) -> None:
    """As S2 wrote its files, by nested names and one number a line."""
    folder.mkdir()
    spelt = {"downsample.0": "downsample_conv2d", "downsample.1": "downsample_batchnorm"}
    for name, array in arrays.items():
        *module, what = name.split(".")
        if module[0].startswith("layer"):
            rest = ".".join(module[2:])
            module = [module[0], f"bottleneck{module[1]}", spelt.get(rest, rest)]
        order = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        lines = "\n".join(f"{number:.9e}" for number in order.ravel().tolist())
        (folder / f"resnet50_{'_'.join(module)}_{what}.txt").write_text(lines + "\n")


SOME = ("conv1.weight", "bn1.bias", "layer1.0.conv2.weight", "layer2.0.downsample.0.weight", "layer4.2.bn3.running_var")


@pytest.fixture
def dump(tmp_path: Path) -> tuple[Path, dict[str, Array]]:
    shapes, state = nets.build("resnet50").parameters, np.random.RandomState(4)
    arrays = {name: state.uniform(-1, 1, shapes[name]).astype(np.float32) for name in SOME}
    arrays["layer3.0.downsample.1.running_mean"] = np.arange(1024, dtype=np.float32)
    write_dump(tmp_path / "dump", arrays)
    return tmp_path / "dump", arrays


def test_text_dump_comes_out_under_torchvisions_names_and_axes(dump: tuple[Path, dict[str, Array]]) -> None:
    folder, arrays = dump
    (folder / "resnet50_layer2_bottleneck0_conv2_param.txt").write_text("128\n128\n3\n2\n1\n")
    (folder / "resnet50_bn1_param.txt").write_text("1e-5\n0.1\n")
    assert_same(read(folder).arrays, arrays)
    with pytest.raises(ModelError, match=r"dump: parameters do not fit net 'resnet50': missing bn1\.weight"):
        engine.load(folder, net="resnet50")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("resnet50_conv1_bias.txt", "1\n", "'resnet50_conv1_bias.txt' belongs to no layer of resnet50"),
        ("notes.txt", "hello", "'notes.txt': expected a name such as"),
        ("resnet50_fc_bias.txt", "__import__('os')\n", "'resnet50_fc_bias.txt' does not hold one number a line"),
        ("resnet50_fc_bias.txt", "", "does not hold one number a line"),
        ("resnet50_fc_bias.txt", "1\n2\n", "expected 1000 numbers, one per line, found shape .2,."),
        ("resnet50_fc_bias.txt", "1 2\n" * 500, "found shape .500, 2."),
        (
            "resnet50_layer2_bottleneck0_conv2_param.txt",
            "128\n128\n3\n1\n1\n",
            "but resnet50 has .128, 128, 3, 2, 1.",
        ),
        ("resnet50_bn1_param.txt", "1e-3\n0.1\n", "but resnet50 has .1e-05."),
    ],
)
def test_a_text_dump_with_an_invalid_file_is_refused(
    dump: tuple[Path, dict[str, Array]], name: str, text: str, message: str
) -> None:
    (dump[0] / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        read(dump[0])


def test_a_text_dump_follows_no_links_and_prints_nothing_of_their_targets(
    dump: tuple[Path, dict[str, Array]], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("hunter2")
    (dump[0] / "resnet50_fc_bias.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"'resnet50_fc_bias\.txt' is a link") as caught:
        read(dump[0])
    assert "hunter2" not in str(caught.value)


def test_text_dump_that_we_write_is_read_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, state = nets.build("resnet50"), np.random.RandomState(5)
    kept = {n: s for n, s in whole.parameters.items() if n.startswith(("conv1", "bn1", "layer1.0", "layer2.0.down"))}
    nodes = tuple(n for n in whole.nodes if n.op_type == "Relu" or set(n.inputs[1:]) & set(kept))
    monkeypatch.setattr(nets, "build", lambda name: replace(whole, parameters=kept, nodes=nodes))
    arrays = {name: state.standard_normal(shape).astype(np.float32) for name, shape in kept.items()}
    write_text_dump(tmp_path / "dump", arrays, "resnet50")
    assert_same(read(tmp_path / "dump").arrays, arrays)
    # Line by line as S2 has them: output, row, column, input; and what the layer is.
    lines = (tmp_path / "dump" / "resnet50_layer1_bottleneck0_conv2_weight.txt").read_text().splitlines()
    assert [np.float32(line) for line in lines[64:66]] == arrays["layer1.0.conv2.weight"][0, :2, 0, 1].tolist()
    said = {name: (tmp_path / "dump" / f"resnet50_{name}_param.txt").read_text().split() for name in ("conv1", "bn1")}
    assert [float(number) for number in said["conv1"]] == [3, 64, 7, 2, 3]
    assert [float(number) for number in said["bn1"]] == [1e-5, 0.1]
    assert (tmp_path / "dump" / "resnet50_layer2_bottleneck0_downsample_conv2d_weight.txt").exists()
    with pytest.raises(ModelError, match="dump: it exists already; name a new folder"):
        write_text_dump(tmp_path / "dump", arrays, "resnet50")


def test_text_dump_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="text dumps can only hold resnet50, this is mnist"):
        save(model("mnist"), tmp_path / "dump")
    with pytest.raises(KeyError):
        write_text_dump(tmp_path / "dump", {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, "resnet50")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="0 text files; expected those of resnet50"):
        read(tmp_path)
