"""The documentation: links resolve, examples of settings load, and code blocks marked `<!-- test -->` run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from camapp.core.settings import load_cameras
from camapp.scenes.scene import SceneOptions, scene_class

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?P<mark><!-- test -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(value):
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else None


def anchors(page):
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(language, marked=False):
    """(page, line, code) of each block of a language; only those marked to be run if `marked`."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match["language"] == language and (match["mark"] or not marked):
                found.append(pytest.param(match["code"], id=f"{name(page)}:{text[: match.start()].count(chr(10)) + 1}"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_to_a_file_or_heading_resolves(page):
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name}" not in index] == ["index.md"]


@pytest.mark.parametrize("code", blocks("toml"))
def test_examples_of_settings_are_accepted(code, tmp_path):
    (tmp_path / "camapp.toml").write_text(code)
    assert load_cameras({}, tmp_path / "camapp.toml", {})


@pytest.fixture
def folder(tmp_path):
    """A working folder with the files that the examples name, and `camapp` and `python` in its bin/."""
    image, _ = scene_class("digits")(SceneOptions(size=(320, 240), seed=1, count=1)).render(0)
    cv2.imwrite(str(tmp_path / "12_7.png"), image)
    cv2.imwrite(str(tmp_path / "photo.jpg"), image)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "3_7.png"), image)
    (tmp_path / "bin").mkdir()
    for program, start in (("camapp", "-m camapp "), ("python", "")):
        script = tmp_path / "bin" / program
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {start}"$@"\n')
        script.chmod(0o755)
    return tmp_path


def run(command, folder):
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env={**environment, "CAMAPP_DURATION": "1"}, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# Loops over a live source end by Ctrl-C, once they have printed some results.
CTRL_C = """import _thread, sys
write, written = sys.stdout.write, []
def count(text):
    written.append(text)
    # With each further result again: an interrupt during a finaliser is lost.
    if len(written) >= 8:
        _thread.interrupt_main()
    return write(text)
sys.stdout.write = count
try:
    exec(compile(sys.argv[1], "block", "exec"))
except KeyboardInterrupt:
    sys.stdout.write = write
    print("interrupted")
"""


@pytest.mark.parametrize("code", blocks("python", marked=True))
def test_marked_blocks_of_python_run(code, folder):
    run([sys.executable, "-c", CTRL_C, code], folder)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("shell", marked=True))
def test_marked_shell_blocks_run(code, folder):
    run(["bash", "-euo", "pipefail", "-c", code], folder)
