"""The plain loops share no code with the kernels that they check."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import engine.reference

FILES = sorted(Path(engine.reference.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_reference_imports_only_the_graph_and_numpy(path: Path) -> None:
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    foreign = {module for module in modules if module.split(".")[0] not in sys.stdlib_module_names}
    assert {module for module in foreign if not module.startswith("engine.reference")} <= {"engine.graph", "numpy"}
