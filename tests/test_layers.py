"""The order of the packages: a module imports only from its own package and from those below it."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From top to bottom; packages in one row do not import each other.
LAYERS = [
    ["camapp.__main__"],
    ["weights"],
    ["camapp.cli"],
    ["camapp.commands", "camapp.api"],
    ["camapp.app"],
    ["camapp.remote", "camapp.pipeline"],
    ["camapp.sinks"],
    ["camapp.overlay"],
    ["camapp.workers", "camapp.tasks"],
    ["camapp.capture"],
    ["camapp.scenes"],
    ["camapp.system"],
    ["camapp.core"],
    ["camapp", "camapp.data"],
    ["engine.__main__"],
    ["engine.runtime"],
    ["engine"],
    ["engine.model"],
    ["engine.interpreter"],
    ["engine.compiler"],
    ["engine.plan"],
    ["engine.reference", "engine.kernels"],
    ["engine.formats"],
    ["engine.nets"],
    ["engine.model_card"],
    ["engine.shapes", "engine.attributes", "engine.lazy_weights", "engine.inputs"],
    ["engine.graph"],
]
# The root re-exports the API lazily.
EXCEPTIONS = {"camapp": {"camapp.api"}}
HEIGHT = {package: -row for row, packages in enumerate(LAYERS) for package in packages}


def package_of(module: str) -> str:
    """The longest entry of LAYERS that the module lies in; a package's own __init__ is only itself."""
    parts = module.split(".")
    found = [name for n in range(len(parts), 1, -1) if (name := ".".join(parts[:n])) in HEIGHT]
    return found[0] if found else parts[0] if parts[0] == "weights" or len(parts) == 1 else module


def imports(path: Path) -> set[str]:
    """Every module that the file names in an import, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if (ROOT / Path(*name.split("."))).is_dir() or is_module(name)}
            found |= modules or {str(node.module)}
    return found


def is_module(name: str) -> bool:
    return (ROOT / Path(*name.split("."))).with_suffix(".py").is_file()


FILES = sorted(path for top in ("camapp", "engine", "weights") for path in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_its_own_package_and_from_those_below(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own = package_of(module)
    assert own in HEIGHT, f"{module} is in no layer: add its package to LAYERS"
    for name in imports(path) - EXCEPTIONS.get(module, set()):
        if name.split(".")[0] not in ("camapp", "engine", "weights"):
            continue
        other = package_of(name)
        assert other == own or HEIGHT[other] < HEIGHT[own], f"{module} imports {name}, which is not below {own}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parts[len(ROOT.parts)] == "engine"], ids=lambda p: p.name
)
def test_the_engine_imports_only_numpy_and_the_standard_library(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops <= {"engine", "numpy", *sys.stdlib_module_names}


def test_the_root_of_camapp_holds_at_most_five_modules():
    assert len([*(ROOT / "camapp").glob("*.py")]) <= 5


@pytest.mark.parametrize(
    "path", [path for path in FILES if "camapp" in path.parts], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_no_module_of_camapp_uses_the_api_through_the_root(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "camapp":
            used = {alias.name for alias in node.names if not (ROOT / "camapp" / alias.name).is_dir()}
            assert all(name == "__version__" or is_module(f"camapp.{name}") for name in used), used
