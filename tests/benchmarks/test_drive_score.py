"""The score of a drive: fitted on some blocks, scored on others, equal to the reference beside the recorded drives."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.benchmarks.common import ROOT
from tests.benchmarks.drive_score import NAMES, SMALL, Played, best_lag, follow, play, plot_estimates, steering_net

REFERENCE = ROOT.parent / "shared" / "data" / "track" / "drives" / "score_drive.py"


def drive(frames=900, noise=0.3, lag=3):
    """Return measured values with gaps, and a steering that follows from those `lag` frames before."""
    rng = np.random.default_rng(4)
    measured = np.cumsum(rng.normal(0, 0.05, (frames, 3)), axis=0)
    angles = np.roll(measured @ (-0.5, 0.2, 0.7), lag) + rng.normal(0, noise, frames)
    measured[rng.random(frames) < 0.15] = np.nan
    return measured, angles


def test_steering_that_follows_exactly_correlates_fully_at_its_delay():
    measured, angles = drive(noise=0.0, lag=5)
    found, lag, weights = follow(measured, angles)
    assert found > 0.98
    assert abs(lag - 5) <= 1
    assert np.sign(weights).tolist() == [-1, 1, 1]


def test_steering_without_relation_does_not_correlate():
    measured, _ = drive()
    assert abs(follow(measured, np.random.default_rng(1).normal(0, 1, 900))[0]) < 0.4
    assert follow(np.full((900, 3), np.nan), np.zeros(900))[0] == 0


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the recorded drives beside the project")
def test_the_score_agrees_with_the_reference(tmp_path):
    measured, angles = drive()
    records = [{"frame": i, "angle": angle, "ms": 50 * i} for i, angle in enumerate(angles)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    with (tmp_path / "log.jsonl").open("w") as log:
        for seq, row in enumerate(measured):
            # Lanes that are too old do not count, as none.
            values = {"age_ms": 61.0, "offset_m": 5.0} if np.isnan(row).any() else dict(zip(NAMES, row, strict=True))
            log.write(json.dumps({"seq": seq, "values": values}) + "\n")
    command = [sys.executable, str(REFERENCE), str(tmp_path), str(tmp_path / "log.jsonl")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, lag, weights = follow(measured, angles)
    share = np.isfinite(measured[:, 0]).mean()
    assert f"lane in {share:.0%} of 900 frames" in printed
    assert f"correlation with the person {found:.2f} at lag {lag} " in printed
    assert np.allclose([float(number) for number in re.findall(r"-?\d+\.\d*", printed)[-3:]], weights, atol=0.0051)


@pytest.mark.slow
def test_a_folder_of_frames_is_played_and_one_without_steering_refused(tmp_path):
    (tmp_path / "frames").mkdir()
    for index in range(3):
        assert cv2.imwrite(str(tmp_path / "frames" / f"{index:04d}.jpg"), np.full((12, 16, 3), 99, np.uint8))
    records = [{"frame": index, "angle": index / 4, "ms": 50 * index} for index in range(3)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    played = play(tmp_path, workers=1)
    assert played.angles.tolist() == [0.0, 0.25, 0.5]
    assert np.isnan(played.measured).all()
    assert played.images.shape == (3, *SMALL[::-1], 3)
    with pytest.raises(SystemExit, match="neither a tub nor"):
        play(tmp_path / "frames")


@pytest.mark.slow
def test_the_net_learns_to_steer_towards_a_bright_bar():
    pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    angles = np.convolve(rng.uniform(-1, 1, 430), np.ones(31) / 31, "valid") * 5
    images = rng.integers(0, 60, (400, *SMALL[::-1], 3), np.uint8)
    for image, angle in zip(images, angles, strict=True):
        column = int(40 + 30 * np.clip(angle, -1, 1))
        image[:, column - 3 : column + 3] = 220
    played = Played(angles, np.full((400, 3), np.nan), images, np.full((400, 2), np.nan))
    assert best_lag(steering_net(played, seed=0, epochs=12), angles) > 0.8


@pytest.mark.slow
def test_the_estimates_are_drawn_also_where_there_is_no_lane(tmp_path):
    pytest.importorskip("matplotlib")
    estimates = np.column_stack([np.linspace(10, 20, 50), np.linspace(2, 4, 50)])
    empty = np.full((50, 3), np.nan)
    images = np.zeros((50, SMALL[1], SMALL[0], 3), np.uint8)
    drives = {"one": Played(np.zeros(50), empty, images, estimates)}
    plot_estimates(drives, tmp_path / "one.png")
    plot_estimates(drives | {"none": Played(np.zeros(50), empty, images, estimates * np.nan)}, tmp_path / "two.png")
    one, two = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("one", "two"))
    assert one.std() > 10
    assert two.shape[0] == pytest.approx(2 * one.shape[0], abs=2)
