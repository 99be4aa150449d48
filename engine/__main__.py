"""Implements `python -m engine`: `info` prints a model file, `convert` writes another format, `run` runs it."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.graph import Array
    from engine.model import Model


def main(arguments: Sequence[str] | None = None, program: str = "python -m engine") -> int:
    """Run one command and return its exit code: 0 done, 2 usage, 78 a model or an array that cannot be used.

    Args:
        program: how this program was started, for its help.
    """
    options = build_parser(program).parse_args(arguments)
    from engine.graph import ModelError  # lazy: --help does not wait for NumPy

    if getattr(options, "kernel", None):
        os.environ["ENGINE_KERNELS"] = options.kernel
    try:
        code = {"info": _info, "convert": _convert, "run": _run}[options.command](options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has closed the pipe (`engine info FILE | head`): discard the rest, so that exit reports no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ModelError, OSError, ValueError) as error:
        print(f"engine: {error}", file=sys.stderr)
        return 78


def build_parser(program: str = "python -m engine") -> argparse.ArgumentParser:
    """Return the command line parser; needs no NumPy."""
    parser = argparse.ArgumentParser(prog=program, description="Run CNNs in NumPy.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="print a model's card and layers")
    run = commands.add_parser("run", help="run a model on an array (N, C, H, W), or (N, C, L) of signals")
    convert = commands.add_parser("convert", help="write a model as .npz (a bundle), .safetensors, .onnx or text dumps")
    for command in (info, run, convert):
        command.add_argument("file", type=Path, help=".npz, .pth, .pt, .safetensors, .onnx, or a folder of text dumps")
        command.add_argument("--net", help="network name, for files without a model card")
    for command in (info, run):
        command.add_argument(
            "--kernel",
            metavar="LAYER=KERNEL",
            help="force a kernel: LAYER=KERNEL or OPERATOR=KERNEL, comma-separated",
        )
    convert.add_argument("target", type=Path, help="file to write; the suffix selects the format, none writes a folder")
    run.add_argument("input", type=Path, help="array to read (.npy)")
    run.add_argument("output", type=Path, help="array to write (.npy)")
    return parser


def _info(options: argparse.Namespace) -> int:
    from engine.model import load

    model = load(options.file, options.net)
    card = model.card
    print(f"net       {card.net} (task {card.task})")
    shape = "x".join(map(str, card.input_shape))
    print(f"input     {shape} {card.colour or '(no image)'}, mean {card.mean}, std {card.std}")
    print(f"labels    {', '.join(card.labels) or '-'}")
    for name, share in card.accuracy.items():
        print(f"accuracy  {100 * share:.2f} % on {name}")
    for name in ("recipe", "licence", "sha256"):
        print(f"{name:<9} {getattr(card, name) or '-'}")
    layers = _layers(model)
    print(f"arena     {model.plan().arena_bytes:,} bytes between inputs and outputs")
    print()
    for name, op_type, shape, parameters, macs, kernel in layers:
        print(f"{name:<28} {op_type:<20} {shape:<18} {parameters:>12} {macs:>14}  {kernel}".rstrip())
    return 0


def _layers(model: Model) -> list[tuple[str, str, str, str, str, str]]:
    """Return the rows of the table: name, operator, output shape, parameters, multiply-adds and kernel of each layer.

    All numbers are for one item; the first row has the titles, the last one the sums. A layer without a kernel is part
    of another layer's in the model's plan.
    """
    from engine.compiler.constant_folding import fold
    from engine.compiler.planner import choose_steps

    graph = fold(model.graph, model.default_shapes)
    sizes = {name: array.size for name, array in graph.initializers.items()}
    owners = {node.name: node for node in graph.nodes}  # as before the passes, which move parameters between nodes
    steps = [(each.node, each.step) for each in choose_steps(graph, model.default_shapes)]
    del graph
    kernels = {each.node.name: each.kernel for each in model.chosen()}  # plans; the lazy weights are released after it
    rows = [("layer", "operator", "output", "parameters", "MAC", "kernel")]
    counted: set[str] = set()
    for node, step in steps:
        own = {name for name in owners[node.name].inputs if name in sizes} - counted
        counted |= own
        parameters = sum(sizes[name] for name in own)
        shape = "x".join(map(str, step.shape))
        rows.append((node.name, node.op_type, shape, f"{parameters:,}", f"{step.macs:,}", kernels.get(node.name, "")))
    total = sum(sizes[name] for name in counted)
    macs = sum(step.macs for _, step in steps)
    return [*rows, ("total", "", "", f"{total:,}", f"{macs:,}", "")]


def _convert(options: argparse.Namespace) -> int:
    from engine.runtime.convert import convert

    model = convert(options.file, options.target, options.net)
    files = [options.target] if options.target.is_file() else [*options.target.iterdir()]
    size = sum(file.stat().st_size for file in files)
    print(f"{options.target}: net {model.card.net}, {size:,} bytes, same outputs")
    if len(files) > 1:
        print("text dumps hold no model card: labels, mean, std and the other fields are lost")
    return 0


def _run(options: argparse.Namespace) -> int:
    import numpy as np

    from engine.inputs import as_float32
    from engine.model import load

    model = load(options.file, options.net)
    with options.input.open("rb") as file:
        data: Array = np.lib.format.read_array(file, allow_pickle=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = as_float32(data, str(options.input))
    for warning in said:
        print(f"engine: {warning.message}", file=sys.stderr)
    if data.dtype != np.float32:
        raise ValueError(f"{options.input}: expected float32, found {data.dtype}")
    found = model.run(data)
    if isinstance(found, tuple):
        raise ValueError(f"net '{model.card.net}' has {len(found)} outputs; this command writes one")
    np.save(options.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
