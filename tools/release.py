"""Builds and checks a release of the present commit: `make release`, or `python tools/release.py FOLDER`.

It changes nothing in the clone, publishes nothing and sets no tag; its last lines say how to.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("camapp", "engine", "weights")


class NotReady(Exception):
    """The clone cannot be released as it is; the message says what to do."""


def git(*arguments: str, root: Path = ROOT) -> str:
    """Return the output of git."""
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout


def check_clone(root: Path = ROOT) -> tuple[str, str]:
    """Return the version and its section of the changelog. Raises NotReady."""
    if changed := git("status", "--porcelain", root=root).strip():
        raise NotReady(f"the clone has changes that are not committed; commit or stash them:\n{changed}")
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', (root / "camapp/__init__.py").read_text(), re.MULTILINE)
    if not found:
        raise NotReady('camapp/__init__.py has no line __version__ = "MAJOR.MINOR.PATCH"')
    version = found[1]
    sections = re.split(r"^## +(.*?) *$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = {name: text.strip() for name, text in zip(sections[1::2], sections[2::2], strict=True)}
    if not texts.get(version):
        raise NotReady(f"CHANGELOG.md has no section '## {version}': write one, or correct __version__")
    if texts.get("Unreleased"):
        what = f"move them to '## {version}', or raise __version__"
        raise NotReady(f"CHANGELOG.md has changes under '## Unreleased': {what}")
    if git("tag", "--list", f"v{version}", root=root).strip():
        raise NotReady(f"the tag v{version} exists: raise __version__ in camapp/__init__.py")
    return version, texts[version]


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source archive of the commit, and the wheel from that archive; return wheel and archive."""
    with tempfile.TemporaryDirectory() as clean:
        # Only what is committed: no file of the working folder can get into a release, or hide a missing one.
        git("clone", "--quiet", str(ROOT), clean)
        run(sys.executable, "-m", "build", "--outdir", str(folder), clean)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def committed_files() -> Iterator[str]:
    """Yield the name of each file of the packages; a link to a folder stands for the files in it."""
    for name in git("ls-files", *PACKAGES).splitlines():
        path = ROOT / name
        yield from (f"{name}/{file.name}" for file in path.iterdir()) if path.is_dir() else [name]


def check_wheel(wheel: Path, version: str) -> None:
    """Raise NotReady unless the wheel holds every file of the packages, nothing else, and the version."""
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        found = re.search(r"^Version: (.*)$", file.read(metadata).decode(), re.MULTILINE)
    committed = {name for name in committed_files() if not name.endswith(".md")}
    if missing := sorted(committed - names):
        raise NotReady(f"{wheel.name} lacks {', '.join(missing)}: see package-data in pyproject.toml")
    if foreign := sorted(names - committed):
        raise NotReady(f"{wheel.name} holds what is not committed: {', '.join(foreign)}")
    if not found or found[1].strip() != version or wheel.name != f"camapp-{version}-py3-none-any.whl":
        raise NotReady(f"{wheel.name} is not of version {version}")


def check_installed(wheel: Path, version: str) -> None:
    """Install the wheel into a new environment and use the program, away from the clone. Raises NotReady."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        program = Path(folder) / "venv/bin/camapp"
        run(str(program.with_name("python")), "-m", "pip", "install", "-q", str(wheel), cwd=folder)
        shown = run(str(program), "--version", cwd=folder).strip()
        if shown != version:
            raise NotReady(f"the installed program says it is {shown}")
        run(str(program), "--source", "pattern://digits", "--max-frames", "20", "--display", "none", cwd=folder)


def run(*command: str, cwd: str | None = None) -> str:
    """Return the output of a command. Raises NotReady with the end of its messages if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=1200)
    if done.returncode:
        raise NotReady(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def main(folder: Path) -> None:
    """Build into `folder` and print what was checked."""
    version, changes = check_clone()
    print(f"camapp {version}, commit {git('rev-parse', '--short', 'HEAD').strip()}: committed, and in the changelog")
    with tempfile.TemporaryDirectory() as built:
        wheel, source = build(Path(built))
        print("built from the commit alone: the source archive, and the wheel from that archive")
        check_wheel(wheel, version)
        print("the wheel holds every file of the packages, and no other")
        check_installed(wheel, version)
        print("a new environment installs it, and its program predicts 20 frames\n")
        folder.mkdir(parents=True, exist_ok=True)
        for file in (wheel, source):
            data = file.read_bytes()
            print(f"{hashlib.sha256(data).hexdigest()}  {shutil.copy(file, folder)}  ({len(data) / 1e6:.1f} MB)")
    print(
        f"\n{changes}\n\nTo publish: git tag -a v{version} -m 'camapp {version}', push the tag, and attach both files."
    )


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
    except NotReady as reason:
        sys.exit(f"release: {reason}")
