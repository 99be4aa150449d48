import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.common import ROOT

SCRIPTS = [path.stem for path in sorted(Path(__file__).parent.glob("*.py")) if "\nif __name__ ==" in path.read_text()]


def run(name, *arguments):
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_prints_its_help(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}.py")


@pytest.mark.slow
def test_the_old_name_of_the_number_of_images_is_an_alias():
    assert "--images/--pictures: invalid int value" in run("classify_folder", "--pictures", "x").stderr
