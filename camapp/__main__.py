"""Runs the program as `python -m camapp` or `camapp`."""

import signal

# Until a run installs its own handlers, Ctrl-C ends the program at once, without a traceback of the imports.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from camapp.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
