"""The help of every command of the three programs can be read on narrow terminals."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import camapp.cli
import engine.__main__
import weights.__main__
from camapp.core.command_help import PlainCommand, PlainGroup

ROOT = Path(__file__).parents[1]
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
def test_the_help_of_a_command_fits_the_terminal(command, width):
    program, *path = command
    done = CliRunner().invoke(PROGRAMS[program], [*path, "--help"], terminal_width=width)
    assert done.exception is None
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= width
    assert "Usage:" in done.output
    if width == 80:
        shown = [parameter for parameter in leaf(command).params if not getattr(parameter, "hidden", False)]
        named = [option for parameter in shown for option in parameter.opts if option.startswith("--")]
        assert [option for option in named if option not in done.output] == []


def test_the_help_of_the_engine_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    parser = engine.__main__.build_parser()
    children = [
        child for action in parser._actions if isinstance(action.choices, dict) for child in action.choices.values()
    ]
    for one in (parser, *children):
        assert max(map(len, one.format_help().splitlines())) <= 60


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_shows_no_types_of_python_and_each_command_has_examples(command):
    found = leaf(command)
    text = CliRunner().invoke(PROGRAMS[command[0]], [*command[1:], "--help"]).output
    assert not re.search("[<>{}][a-z]", text)
    if command[1:] and not getattr(found, "commands", None):
        examples = text.partition("\nExamples:\n")[2].splitlines()
        assert 2 <= len(examples) <= 3
        assert all(
            line.startswith(f"  camapp {' '.join(command[1:])} ") or line.endswith(command[-1]) for line in examples
        )


@pytest.mark.parametrize(
    ("command", "option"), [("camapp run", "--model"), ("camapp models get", "--yes"), ("weights evaluate", "--split")]
)
def test_a_misspelt_option_is_answered_with_the_nearest_one(command, option):
    program, *path = command.split()
    done = CliRunner().invoke(PROGRAMS[program], [*path, f"{option}s"])
    assert done.exit_code == 2
    assert f"no option '{option}s'; did you mean '{option}'?" in " ".join(done.output.split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_answers_misspelt_options(command):
    assert isinstance(leaf(command), PlainCommand | PlainGroup)


@pytest.mark.parametrize(
    ("command", "listed", "accepted"),
    [("bench", "--model --workers --loop", "--log --web --display"), ("collect", "--source --roi", "--model --mqtt")],
)
def test_bench_and_collect_list_the_options_that_they_use_and_accept_all(command, listed, accepted):
    found = leaf(("camapp", command))
    options = {option for parameter in found.params for option in parameter.opts}
    text = CliRunner().invoke(PROGRAMS["camapp"], [command, "--help"]).output
    assert {option for option in listed.split() if option not in text} == set()
    assert {option for option in accepted.split() if f"{option} " in text} == set()
    assert set(accepted.split()) <= options


def test_the_help_of_a_run_lists_the_keys_of_its_window():
    text = " ".join(CliRunner().invoke(PROGRAMS["camapp"], ["run", "--help"]).output.split())
    assert "s: save a snapshot; space: pause; then the next picture; p: pause, or go on;" in text


def started(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize("program", ["camapp", "weights", "engine"])
def test_a_program_prints_its_help(program):
    done = started(sys.executable, "-m", program, "--help")
    assert done.returncode == 0
    assert done.stdout.lower().startswith(f"usage: {'python' if program == 'engine' else sys.executable} -m {program}")


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("train", "train [OPTIONS] RECIPE [FOLDER]"),
        ("evaluate", "evaluate [OPTIONS] FILE"),
        ("engine info", "engine info [-h]"),
    ],
)
def test_the_programs_of_the_other_packages_are_commands_too(command, usage):
    done = started(sys.executable, "-m", "camapp", *command.split(), "--help")
    assert done.returncode == 0
    assert f"Usage: {sys.executable} -m camapp {usage}".lower() in " ".join(done.stdout.lower().split())


def test_a_training_that_cannot_start_fails_by_either_name():
    ways = [("weights", "train", "nothing"), ("camapp", "train", "nothing")]
    one, other = (started(sys.executable, "-m", *way) for way in ways)
    assert one.returncode == other.returncode == 78
    assert one.stderr == other.stderr
    assert "no recipe 'nothing'" in one.stderr


SCRIPT = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from camapp.__main__ import main
main()
"""


@pytest.mark.parametrize("way", ["a path", "a name", "a module"])
def test_messages_and_helps_name_the_program_as_it_was_started(way, tmp_path):
    script = tmp_path / "my bin" / "camapp"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    script.chmod(0o755)
    environment = {**os.environ, "COLUMNS": "400", "PYTHONPATH": str(ROOT)}
    command, name = {
        "a path": ([script], f"'{script}'"),
        "a name": (["camapp"], "camapp"),
        "a module": ([sys.executable, "-m", "camapp"], f"{sys.executable} -m camapp"),
    }[way]
    if way == "a name":
        environment["PATH"] = f"{script.parent}:{environment['PATH']}"
    for argument, part in (("--model=nothing", f"'{name} models'"), ("--help", f"Usage: {name} run [OPTIONS]")):
        done = subprocess.run([*command, "run", argument], capture_output=True, text=True, timeout=60, env=environment)
        # Usage lines are wrapped.
        assert part in " ".join((done.stdout + done.stderr).split())
