"""Starts a module of ours as a process of its own: a worker, the page's server, a window."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from camapp.processes import blas_threads


def start_child(
    module: str,
    *arguments: str,
    fds: Sequence[int],
    threads: int = 1,
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module`; its stdin and stdout are nowhere, as the parent's stdout may carry the log.

    Args:
        module: its name.
        arguments: it gets.
        fds: descriptors that it inherits, by the same numbers.
        threads: of BLAS, set before it imports NumPy.
        before: a command that starts it, such as a kiosk's.
        environment: what it finds there unless the user has set that otherwise.
        stderr: as `subprocess.Popen` takes it; None leaves it the parent's.

    Raises:
        OSError: it cannot be started.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        # -P: never import what happens to lie in the user's folder.
        [*before, sys.executable, "-P", "-m", module, *arguments],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        process_group=0,  # a terminal's Ctrl-C and Ctrl-Z are for the parent
        env={**(environment or {}), **os.environ, **blas_threads(threads), "PYTHONPATH": path},
    )
