"""The Debian arm64 root of the tests and benchmarks under emulation, and wheels for it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.debian_root import CACHE, ROOT

VARIABLE, NAME = "CAMAPP_ARM64_ROOT", "arm64-bookworm"
FOLDER = Path(os.environ.get(VARIABLE) or CACHE / NAME)
PACKAGES = "python3,python3-numpy,libopenblas0-pthread,libblas3,liblapack3,libgl1,libglib2.0-0,libgomp1,bash,coreutils"
# Unpacks and configures nothing: a package's scripts would take minutes under emulation.
MMDEBSTRAP = ["mmdebstrap", "--variant=extract", "--arch=arm64", f"--include={PACKAGES}", "bookworm"]
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
REQUIREMENTS = ("-r", str(ROOT / "requirements.txt"))


def pip_for_arm64(target, *arguments, version="3.11"):
    """Install wheels for aarch64 and a version of Python in a folder, by this machine's pip."""
    wheels = ["--only-binary=:all:", *(f"--platform={platform}" for platform in PLATFORMS)]
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", target, "--python-version", version, *wheels]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600)
