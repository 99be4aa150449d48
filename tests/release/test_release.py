"""`make release`: what it refuses, what it builds, and that pipx installs the wheel on Debian as its users do.

The last ones are slow. They need root, systemd-nspawn and debootstrap; the first run stores a Debian root for each
version in the user's cache, and later ones start with a copy of it.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "camapp"
PACKAGES = "ca-certificates,python3,python3-venv,python3-numpy,pipx,libgl1,"
GLIB = {"bookworm": "libglib2.0-0", "trixie": "libglib2.0-0t64"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PASSED_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")

spec = importlib.util.spec_from_file_location("release", ROOT / "tools/release.py")
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)


@pytest.fixture
def clone(tmp_path):
    """A clone with a version and a changelog, all committed; returns a function that writes a file and commits it."""

    def commit(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        release.git("add", name, root=tmp_path)
        author = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        release.git(*author, "commit", "--quiet", "-m", name, root=tmp_path)
        return tmp_path

    release.git("init", "--quiet", root=tmp_path)
    commit("camapp/__init__.py", '__version__ = "1.2.3"\n')
    commit("CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n## 1.2.3\n\n- A change.\n\n## 1.2.2\n\n- Another.\n")
    return commit


def test_a_committed_clone_with_a_section_for_its_version_is_ready(clone):
    root = clone("README.md", "x")
    assert release.check_clone(root) == ("1.2.3", "- A change.")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("CHANGELOG.md", "# Changelog\n\n## 1.2.2\n\n- Another.\n", "no section '## 1.2.3'"),
        ("CHANGELOG.md", "# Changelog\n\n## 1.2.3\n\n## 1.2.2\n\n- Another.\n", "no section '## 1.2.3'"),
        ("CHANGELOG.md", "## Unreleased\n\n- New.\n\n## 1.2.3\n\n- Old.\n", "under '## Unreleased'"),
        ("camapp/__init__.py", "version = 1\n", "no line __version__"),
    ],
)
def test_a_version_or_changelog_that_does_not_fit_is_refused(clone, name, text, message):
    with pytest.raises(release.NotReady, match=message):
        release.check_clone(clone(name, text))


def test_changes_that_are_not_committed_and_a_version_that_is_out_are_refused(clone):
    root = clone("README.md", "x")
    release.git("tag", "v1.2.3", root=root)
    with pytest.raises(release.NotReady, match=r"the tag v1\.2\.3 exists"):
        release.check_clone(root)
    (root / "new.py").write_text("")
    with pytest.raises(release.NotReady, match=r"not committed(.|\n)*new\.py"):
        release.check_clone(root)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the present commit, built and checked as `make release` does."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "build>=1"], check=True, timeout=300)
    wheel, source = release.build(folder)
    release.check_wheel(wheel, wheel.name.split("-")[1])
    assert source.stat().st_size > 1e6
    return wheel


class Debian:
    """A Debian root folder in which commands run, with network."""

    def __init__(self, root):
        self.root = root

    def run(self, script):
        options = ["--resolv-conf=copy-host", "--pipe", "--setenv=HOME=/root"]
        if CERTIFICATES.exists():
            options += [f"--bind-ro={CERTIFICATES}", f"--setenv=PIP_CERT={CERTIFICATES}"]
        options += [f"--setenv={name}={os.environ[name]}" for name in PASSED_VARIABLES if name in os.environ]
        nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={self.root}"]
        done = subprocess.run(
            [*nspawn, *options, "/bin/sh", "-ec", script], capture_output=True, text=True, timeout=800
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


@pytest.fixture(params=["bookworm", "trixie"])
def debian(request, tmp_path, wheel):
    if os.geteuid() != 0 or not shutil.which("systemd-nspawn") or not shutil.which("debootstrap"):
        pytest.skip("needs root, systemd-nspawn (Debian: systemd-container) and debootstrap")
    base = CACHE / f"release-{request.param}"
    if not base.is_dir():
        partial = base.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        base.parent.mkdir(parents=True, exist_ok=True)
        include = f"--include={PACKAGES}{GLIB[request.param]}"
        command = ["debootstrap", "--variant=minbase", include, request.param, str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=800)
        if done.returncode:
            pytest.skip(f"no root could be made: {(done.stdout + done.stderr)[-300:]}")
        partial.rename(base)
    root = tmp_path / "root"
    subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(root)], check=True, timeout=300)
    shutil.copy(wheel, root / "root")
    yield Debian(root)
    shutil.rmtree(root, ignore_errors=True)


USE = (
    "cd /root; export PATH=$PATH:/root/.local/bin; camapp --version;"
    " camapp --source pattern://digits --max-frames 20 --display none --log - 2>/dev/null | tail -1"
)


@pytest.mark.slow
@pytest.mark.timeout(1700)
def test_pipx_installs_the_wheel_on_a_pc_and_leaves_the_numpy_of_a_pi_alone(debian, wheel):
    version = wheel.name.split("-")[1]
    shown, record = debian.run(f"pipx install '/root/{wheel.name}[web,mqtt]' >/dev/null; {USE}").splitlines()
    assert shown == version
    assert '"label"' in record
    # On a Pi, picamera2 and the NumPy that it was built with come from apt.
    shown, record = debian.run(
        f"pipx uninstall camapp >/dev/null; pipx install --system-site-packages /root/{wheel.name} >/dev/null; {USE}"
    ).splitlines()
    assert '"label"' in record
    where = 'python -c "import numpy; print(numpy.__file__)"'
    assert "/usr/lib/python3/dist-packages/numpy" in debian.run(
        f"$(pipx environment --value PIPX_LOCAL_VENVS)/camapp/bin/{where}"
    )
