import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_simulated_car_drives_a_part_of_a_lap_by_what_camapp_tells_it():
    if not (ROOT / "weights" / "track.npz").exists():
        pytest.skip("weights/track.npz does not ship yet")
    command = [sys.executable, "-m", "tests.examples.closed_loop", "--laps", "0.1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
