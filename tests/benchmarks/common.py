"""Helpers of the benchmark scripts: printed conditions, the test video, graphs for other runtimes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from camapp.scenes.scene import SceneOptions, scene_class
from camapp.system.machine import machine
from engine.graph import Graph
from engine.model import Model
from engine.model_card import ModelCard
from engine.nets.layers import NetBuilder

ROOT = Path(__file__).parents[2]


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description and prints defaults."""


def benchmark_parser() -> argparse.ArgumentParser:
    """Return a parser whose help has the script's docstring and the defaults."""
    return argparse.ArgumentParser(description=sys.modules["__main__"].__doc__, formatter_class=_HelpFormatter)


def print_conditions() -> None:
    """Print the machine, versions, threads and command of a measurement."""
    host = machine()
    print(f"{host['cpu']}, {host['cores']} cores, load {os.getloadavg()[0]:.1f}; {host['os']}")
    print(f"Python {host['python']}, NumPy {host['numpy']}, OpenCV {host['opencv']}")
    blas = os.environ.get("OPENBLAS_NUM_THREADS", "one per core")
    print(f"threads of this process: OpenCV {cv2.getNumThreads()}, BLAS {blas}")
    print("command:", command())


def command() -> str:
    """Return the command line of the running script."""
    return " ".join(["python -m", sys.modules["__main__"].__spec__.name, *sys.argv[1:]])


def clip(seconds: float, size: tuple[int, int] = (1280, 720), fps: int = 30) -> Path:
    """Return a video of handwritten digits, made once and kept in the temporary folder."""
    path = Path(tempfile.gettempdir()) / f"camapp-clip-{size[0]}x{size[1]}-{fps}-{seconds:g}s.mp4"
    if path.exists():
        return path
    scene = scene_class("digits")(SceneOptions(size=size, fps=fps, seed=3, count=3))
    partial = path.with_suffix(".partial.mp4")
    writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    for index in range(round(seconds * fps)):
        writer.write(cv2.cvtColor(scene.render(index)[0], cv2.COLOR_RGB2BGR))
    writer.release()
    partial.replace(path)
    return path


def heavy_model(channels: int = 64, side: int = 96, layers: int = 12) -> Model:
    """Return a net of plain 3x3 convolutions with random weights: 20 to 60 ms per frame on one core."""
    net = NetBuilder("heavy", (3, side, side))
    x, inputs = net.input, 3
    for index in range(layers):
        x = net.relu(net.conv(x, f"conv{index}", inputs, channels, 3, pad=1))
        inputs = channels
    x = net.flatten(net.global_average_pool(x))
    graph = net.graph(net.linear(x, "fc", channels, 10), (10,))
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.03, shape).astype(np.float32) for name, shape in graph.parameters.items()}
    card = ModelCard(net="heavy", input_shape=(3, side, side), mean=(0.5,) * 3, std=(0.5,) * 3, colour="RGB")
    return Model(card, graph.bind(arrays))


def run_child(*arguments: str) -> str:
    """Run `python ARGUMENTS` in the project's folder with one BLAS thread and return its standard output."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def onnx_bytes(graph: Graph) -> bytes:
    """Return the graph as an ONNX file.

    Raises:
        ImportError: the onnx package is not installed.
    """
    import onnx

    shapes = {value.name: ["N", *value.shape[1:]] for value in (*graph.inputs, *graph.outputs)}

    def value(name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name])

    # Dropout's `ratio` is an attribute only up to opset 11.
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(n.op_type, n.inputs, n.outputs, n.name, **n.attributes) for n in graph.nodes],
            graph.name,
            [value(item.name) for item in graph.inputs],
            [value(item.name) for item in graph.outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in graph.initializers.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 11)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())
