"""Runs the program as `python -m camapp` or `camapp`; it joins the commands of all packages."""

import signal

# Until a run installs its own handlers, Ctrl-C ends the program at once, without a traceback of the imports.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from camapp import cli  # noqa: E402
from camapp.core.program import program  # noqa: E402


def _weights(arguments: list[str]) -> None:
    # A training saves what it has on Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from weights.__main__ import main as run

    run(arguments)


def _engine(arguments: list[str]) -> None:
    from engine.__main__ import main as run

    raise SystemExit(run(arguments[1:], f"{program()} engine"))


cli.add_program("train", _weights, "Train a model on images of your own, or by a recipe.")
cli.add_program("evaluate", _weights, "Measure a model file on a test set.")
cli.add_program("engine", _engine, "Print, convert or run a model file, without a camera.")


def main() -> None:
    """Run the program."""
    cli.main()


if __name__ == "__main__":
    main()
