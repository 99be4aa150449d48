"""The wheel and the source archive hold the right files, and an installed wheel runs from any folder."""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD_FILES = (".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "build", "dist")
DATA = {
    "camapp": (
        *("data/systemd/camapp.service", "data/systemd/camapp-kiosk.service", "data/systemd/camapp.desktop"),
        *("data/grafana/camapp.json", "data/models/table.toml", "py.typed"),
        *("data/labels/coco.txt", "data/labels/imagenet.txt"),
        *(f"remote/web/static/{path.name}" for path in (ROOT / "camapp/remote/web/static").iterdir()),
    ),
    "engine": ("py.typed",),
    "weights": ("py.typed", *(path.name for path in (ROOT / "weights").glob("*.npz"))),
}
EXPECTED = {f"{package}/{name}" for package, names in DATA.items() for name in names}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command, cwd, **options):
    # Without PYTHONPATH, or the sources of this tree would be imported.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DISPLAY")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Copy the working tree, in which a build would leave files."""
    pytest.importorskip("setuptools", reason="needs setuptools, to build without the network")
    copy = tmp_path_factory.mktemp("tree") / "camapp"
    return shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*BUILD_FILES))


@pytest.fixture(scope="module")
def wheel(tree):
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", tree.parent, tree, cwd=tree.parent)
    (file,) = tree.parent.glob("camapp-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into an environment that gets its dependencies from this one; return its folder of programs."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin/python"
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    # Ignoring the editable installation of this project, which the environment sees too.
    run(
        sys.executable, "-m", "pip", "--python", python, "install", *options, "--ignore-installed", wheel,
        cwd=environment.parent,
    )  # fmt: skip
    return environment / "bin"


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name for name in names if ".dist-info/" not in name and not name.endswith(".py")} == EXPECTED
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"camapp", "engine", "weights"}


def test_the_source_archive_holds_the_same_data(tree):
    run(sys.executable, "-c", "from setuptools import build_meta as b; b.build_sdist('..')", cwd=tree)
    (file,) = tree.parent.glob("camapp-*.tar.gz")
    with tarfile.open(file) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert EXPECTED | {"pyproject.toml", "requirements.txt", "README.md", "LICENSE"} <= members.keys()
    assert all(members[name].isfile() and members[name].size for name in EXPECTED if "py.typed" not in name)


def test_the_installed_program_runs_from_another_folder(installed, tmp_path):
    version = run(installed / "camapp", "--version", cwd=tmp_path).stdout.strip()
    assert (
        version
        == run(installed / "python", "-c", "import camapp; print(camapp.__version__)", cwd=tmp_path).stdout.strip()
    )
    location = run(installed / "python", "-c", "import camapp; print(camapp.__file__)", cwd=tmp_path).stdout
    assert Path(location).is_relative_to(installed.parent), "another camapp than the installed one"
    done = run(installed / "camapp", "run", "--duration", "2", "--display", "none", cwd=tmp_path)
    assert "in flight 0" in done.stderr


def test_the_installed_package_has_its_units_and_a_service_is_installed_from_a_clone(installed, tmp_path):
    script = (
        "from camapp.commands.install import Installer, ServiceKind, install; from pathlib import Path\n"
        "for kind in ServiceKind: print(Installer(kind, root=Path.cwd()).unit())\n"
        "from camapp.core.errors import CamappError\n"
        "try: install(Installer(root=Path.cwd()), dry_run=True)\n"
        "except CamappError: pass"
    )
    printed = run(installed / "python", "-c", script, cwd=tmp_path).stdout
    assert printed.count("ExecStart=") == 2
    assert printed.count("Exec=") == 1
    if os.geteuid() == 0 and shutil.which("systemctl"):
        assert "would fail: run install-service from a clone" in printed
    assert not list(tmp_path.iterdir())


def test_the_python_interface_works_in_the_installed_package(installed, tmp_path):
    script = """
import camapp

for result in camapp.watch("pattern://digits?size=320x240", model="digits"):
    print(result.prediction.label)
    if result.prediction.label:
        break
model = camapp.load("digits")
print(model.predict(result.frame.shot.view.rgb()).label)
"""
    *_, watched, predicted = run(installed / "python", "-c", script, cwd=tmp_path).stdout.splitlines()
    assert watched.isdigit()
    assert predicted.isdigit()
