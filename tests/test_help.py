"""The help of every command of the three programs can be read on narrow terminals."""

import subprocess
import sys

import pytest
from typer import rich_utils
from typer.main import get_command
from typer.testing import CliRunner

import camapp.cli
import engine.__main__
import weights.__main__

PROGRAMS = {"camapp": camapp.cli.app, "weights": weights.__main__.app}


def commands(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def leaf(command):
    found = get_command(PROGRAMS[command[0]])
    for name in command[1:]:
        found = found.commands[name]
    return found


COMMANDS = [(name, *path) for name, program in PROGRAMS.items() for path in commands(get_command(program))]


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_fits_the_terminal(command, width, monkeypatch):
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", width)
    program, *path = command
    done = CliRunner().invoke(PROGRAMS[program], [*path, "--help"], env={"COLUMNS": str(width)})
    assert done.exception is None
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= width
    assert "Usage:" in done.output
    if width == 80:
        named = [option for parameter in leaf(command).params for option in parameter.opts if option.startswith("--")]
        assert [option for option in named if option not in done.output] == []


def test_the_help_of_the_engine_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    parser = engine.__main__.build_parser()
    children = [
        child for action in parser._actions if isinstance(action.choices, dict) for child in action.choices.values()
    ]
    for one in (parser, *children):
        assert max(map(len, one.format_help().splitlines())) <= 60


@pytest.mark.parametrize("program", ["camapp", "weights", "engine"])
def test_a_program_prints_its_help(program):
    done = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.lower().startswith(("usage", "\n usage", " "))
