"""Debian roots for slow tests: made by a test's first run, kept in the user's cache, entered by systemd-nspawn."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camapp"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
NSPAWN = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit"]


def prepared(variable, name, command, finish=lambda folder: None):
    """Return the folder of a root; skip the test, with the reason, if there is none and none can be made.

    Args:
        variable: environment variable with another folder than `name` in the cache.
        name: of the root.
        command: makes the root in the folder that is added as its last argument; its program is a Debian package.
        finish: adds to the folder what the test needs besides; skips the test if it cannot.
    """
    base = Path(os.environ.get(variable) or CACHE / name)
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not shutil.which("systemd-nspawn"):
        pytest.skip("needs systemd-nspawn (Debian: systemd-container)")
    if not base.is_dir():
        if not shutil.which(command[0]):
            pytest.skip(f"needs {command[0]}, or a root in {variable}")
        partial = base.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([*command, partial], capture_output=True, text=True, timeout=800)
        if done.returncode:
            pytest.skip(f"no root could be made: {(done.stdout + done.stderr)[-300:]}")
        finish(partial)
        partial.rename(base)
    trial = in_root(base, "/bin/true", timeout=60)
    if trial.returncode:
        pytest.skip(f"systemd-nspawn does not work here: {(trial.stderr or trial.stdout).strip()[-300:]}")
    return base


def in_root(root, *command, options=(), timeout=120):
    """Run a command in the root, with network, and return the completed process."""
    given = [f"--directory={root}", "--resolv-conf=copy-host", "--pipe", *options]
    if CERTIFICATES.exists():
        given += [f"--bind-ro={CERTIFICATES}", f"--setenv=PIP_CERT={CERTIFICATES}"]
    given += [f"--setenv={name}={os.environ[name]}" for name in PASSED_ON if name in os.environ]
    return subprocess.run(
        [*NSPAWN, *given, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
