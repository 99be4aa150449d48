"""Describes the machine that a measurement was made on."""

from __future__ import annotations

import os
import platform

import cv2
import numpy as np


def machine() -> dict[str, str]:
    """Return the CPU, its cores, and the versions of Python, NumPy, OpenCV and the operating system."""
    return {
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "os": platform.platform(),
    }


def _cpu_name() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()
