"""Scores recorded drives: the share of frames with a lane, and how well the steering follows from what is seen.

python -m tests.benchmarks.drive_score DRIVE... [--no-net] [--seeds 1] [--plot FILE]

A drive is a donkeycar tub, or a folder with `frames/0000.jpg` and so on and `records.jsonl` ({"angle": -1 to 1, "ms"} a
line). It is played through the application as a file, without any setting of the camera. The steering, averaged over
seven frames, is fitted by least squares to offset, heading and curvature of up to eight frames before, on every other
block of 200 frames; the correlation is that on the blocks between. As an anchor, a small convolutional net of
donkeycar's linear kind learns the same steering from the images of the same blocks (needs PyTorch). `--plot` draws the
estimates of the camera's pitch and the lane's width in the course of the drives (needs matplotlib).
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # before NumPy

import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import camapp
from camapp.capture.source import is_tub
from camapp.core.arrays import Pixels
from camapp.tasks import self_calibration, track
from tests.benchmarks.common import benchmark_parser, print_conditions

Values = NDArray[np.float64]

# Number of consecutive frames of a block; the first, third, ... block is fitted, the others are scored.
BLOCK = 200
# Frames over which the steering is averaged, and the largest delay in frames that is tried.
AVERAGED, LAGS = 7, 9
# Longest age of a lane that counts as seen, milliseconds.
FRESH_MS = 60.0
NAMES = ("offset_m", "heading_deg", "curvature_1_m")
# Ridge of the fit, in standard deviations of the three values.
RIDGE = 0.1
# Size of the net's input (width, height), and passes over the fitted frames.
SMALL, EPOCHS = (80, 60), 60


@dataclass(frozen=True)
class Played:
    """A drive as the application saw it.

    Attributes:
        angles: steering of the person in each frame, -1 to 1.
        measured: (frames, 3) values of `NAMES`; NaN in frames without a fresh lane.
        images: (frames, 60, 80, 3) uint8.
        estimates: (frames, 2) pitch in degrees and width of the lane in camera heights; NaN without a lane.
    """

    angles: Values
    measured: Values
    images: Pixels
    estimates: Values


def main() -> None:
    """Print the table."""
    parser = benchmark_parser()
    parser.add_argument("drives", nargs="+", type=Path, metavar="DRIVE", help="tub, or folder of frames and records")
    parser.add_argument("--no-net", action="store_true", help="train no end-to-end net")
    parser.add_argument("--seeds", type=int, default=1, help="end-to-end nets per drive; their mean is printed")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="image to draw the estimates in")
    parser.add_argument("--model", default="track", help="model to play the drives with")
    arguments = parser.parse_args()
    print_conditions()
    shares, found, anchors, drives = [], [], [], {}
    for drive in arguments.drives:
        drives[drive.name] = played = play(drive, arguments.model)
        shares.append(float(np.isfinite(played.measured[:, 0]).mean()))
        correlation, lag, weights = follow(played.measured, played.angles)
        found.append(correlation)
        text = ", ".join(f"{name} {weight:+.2f}" for name, weight in zip(NAMES, weights, strict=True))
        print(
            f"{drive.name:10s} lane in {shares[-1]:.0%} of {len(played.angles)} frames, "
            f"correlation with the person {correlation:.2f} at lag {lag} ({text})"
        )
        if not arguments.no_net and (net := _anchor(played, arguments.seeds)) is not None:
            anchors.append(net)
    mean = f"mean       lane in {np.mean(shares):.0%}, correlation {np.mean(found):.2f}"
    print(mean + (f"; end-to-end nets {np.mean(anchors):.2f}" if anchors else ""))
    if arguments.plot:
        plot_estimates(drives, arguments.plot)


def play(drive: Path, model: str = "track", **settings: Any) -> Played:
    """Play a drive through the application, without settings of the camera unless some are given.

    Raises:
        SystemExit: it is no drive, or has no steering.
    """
    with TemporaryDirectory() as folder:
        tub = drive if is_tub(drive) else _as_tub(drive, Path(folder))
        with camapp.watch(f"tub:{tub}", model=model, **settings) as results:
            rows = [_row(result) for result in results]
    if not any(np.isfinite(row[0]) for row in rows):
        raise SystemExit(f"{drive} has no steering: its records need user/angle, or angle")
    angles, measured, images, estimates = zip(*rows, strict=True)
    return Played(np.nan_to_num(np.array(angles)), np.array(measured), np.array(images), np.array(estimates))


def _row(result: camapp.Result) -> tuple[float, list[float], Pixels, list[float]]:
    truth, values = result.frame.shot.truth, result.prediction.values
    fresh = "offset_m" in values and values["age_ms"] <= FRESH_MS
    measured = [values[name] if fresh else np.nan for name in NAMES]
    small = cv2.resize(result.frame.view.rgb(), SMALL, interpolation=cv2.INTER_AREA)
    angle = truth.values.get("angle", np.nan) if truth else np.nan
    estimates = [values.get("camera_pitch_deg", np.nan), values.get("lane_width_m", np.nan) / track.HEIGHT]
    return angle, measured, np.asarray(small, np.uint8), estimates


def _as_tub(drive: Path, tub: Path) -> Path:
    """Make a tub of links to the frames of a folder; return it."""
    try:
        records = [json.loads(line) for line in (drive / "records.jsonl").read_text().splitlines()]
    except OSError as error:
        raise SystemExit(f"{drive} is neither a tub nor a folder with records.jsonl: {error.strerror}") from error
    (tub / "images").mkdir()
    with (tub / "catalog_0.catalog").open("w") as catalog:
        for index, record in enumerate(records):
            (tub / "images" / f"{index}.jpg").symlink_to(drive.resolve() / "frames" / f"{index:04d}.jpg")
            row = {"_index": index, "cam/image_array": f"{index}.jpg", "_timestamp_ms": record["ms"]}
            catalog.write(json.dumps(row | {"user/angle": record["angle"] or 0.0}) + "\n")
    return tub


def plot_estimates(drives: dict[str, Played], file: Path) -> None:
    """Draw the estimated pitch and the lane's width in each frame, with what is expected at first and the bounds."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(11, 3 * len(drives)), layout="constrained")
    panels = figure.subplots(len(drives), 2, squeeze=False)
    pitches, widths = self_calibration.PITCHES, self_calibration.WIDTHS
    expected = (track.PITCH, track.LANE_WIDTH / track.HEIGHT)
    for (name, played), row in zip(drives.items(), panels, strict=True):
        bounds = ((pitches[0], pitches[-1]), (widths[0], widths[-1]))
        units = ("pitch, degrees", "width of the lane, camera heights")
        for panel, path, start, ends, unit in zip(row, played.estimates.T, expected, bounds, units, strict=True):
            panel.plot(path, ".", markersize=2, label="frame with a lane")
            panel.axhline(start, color="tab:green", label=f"expected at first: {start:.3g}")
            for end in ends:
                panel.axhline(end, color="tab:red", linestyle="--", label=f"bound: {end:.3g}")
            panel.set(title=f"{name}: {unit}", xlabel="frame", xlim=(0, len(path)))
            panel.legend(fontsize=7, loc="upper right")
        row[1].set_yscale("log")
    figure.savefig(file, dpi=90)


def follow(measured: Values, angles: Values) -> tuple[float, int, Values]:
    """Return the correlation of the steering with its best linear fit, the lag of that fit in frames, and its weights.

    Args:
        measured: (frames, values); a row with NaN keeps the one before.
        angles: (frames,) steering, not yet averaged.
    """
    wanted = averaged(angles)
    held = _held(measured)
    best = (-2.0, 0, np.zeros(held.shape[1]))
    for lag in range(LAGS):
        seen, target = held[: len(held) - lag], wanted[lag:]
        fitted = is_fitted(len(seen))
        system = np.column_stack([seen / (seen.std(axis=0) + 1e-9), np.ones(len(seen))])
        normal = system[fitted].T @ system[fitted] + RIDGE * np.eye(system.shape[1])
        weights = np.linalg.solve(normal, system[fitted].T @ target[fitted])
        found = correlation(system @ weights, target, ~fitted)
        if found > best[0]:
            best = (found, lag, weights[:-1])
    return best


def averaged(angles: Values) -> Values:
    """Return the steering averaged over `AVERAGED` frames."""
    padded = np.pad(angles, AVERAGED // 2, "edge")
    mean: Values = np.convolve(padded, np.ones(AVERAGED) / AVERAGED, "valid")
    return mean


def is_fitted(count: int) -> NDArray[np.bool_]:
    """Return which of `count` frames are fitted."""
    fitted: NDArray[np.bool_] = (np.arange(count) // BLOCK) % 2 == 0
    return fitted


def correlation(found: Values, wanted: Values, scored: NDArray[np.bool_]) -> float:
    """Return the correlation in the scored frames; 0 if what was found is constant there."""
    found, wanted = found[scored], wanted[scored]
    return float(np.corrcoef(found, wanted)[0, 1]) if len(found) > 1 and found.std() > 0 and wanted.std() > 0 else 0.0


def _held(measured: Values) -> Values:
    """Return the rows with those that have NaN replaced by the one before, at first zeros."""
    rows = np.zeros_like(measured)
    last = np.zeros(measured.shape[1])
    for index, row in enumerate(measured):
        last = rows[index] = last if np.isnan(row).any() else row
    return rows


def _anchor(played: Played, seeds: int) -> float | None:
    """Train end-to-end nets and print their mean correlation; return it, None without PyTorch."""
    try:
        import torch  # noqa: F401
    except ImportError:
        print("           no end-to-end net: PyTorch is not installed")
        return None
    began = time.process_time()
    found = [best_lag(steering_net(played, seed), averaged(played.angles)) for seed in range(seeds)]
    seconds = (time.process_time() - began) / seeds
    print(f"           end-to-end net {np.mean(found):.2f} ({seconds:.0f} s of training each)")
    return float(np.mean(found))


def best_lag(found: Values, wanted: Values) -> float:
    """Return the highest correlation of any lag, in the frames that were not fitted."""
    return max(
        correlation(found[: len(found) - lag], wanted[lag:], ~is_fitted(len(found) - lag)) for lag in range(LAGS)
    )


def steering_net(played: Played, seed: int, epochs: int = EPOCHS) -> Values:
    """Return the steering in each frame by a net that was trained on the fitted frames alone."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    images = torch.from_numpy(played.images).permute(0, 3, 1, 2).float() / 255
    wanted = torch.from_numpy(averaged(played.angles)).float()
    chosen = torch.from_numpy(np.flatnonzero(is_fitted(len(wanted))))
    convolutions = [(3, 24, 5, 2), (24, 32, 5, 2), (32, 64, 5, 2), (64, 64, 3, 1)]
    layers = [layer for a, b, side, step in convolutions for layer in (nn.Conv2d(a, b, side, step), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(100), nn.ReLU(), nn.Dropout(0.2))
    net.extend([nn.Linear(100, 50), nn.ReLU(), nn.Dropout(0.2), nn.Linear(50, 1)])
    net(images[:1])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for part in chosen[torch.randperm(len(chosen))].split(64):
            # Brightness varies, and half of the images are mirrored, which mirrors the steering.
            batch = images[part] * torch.empty(len(part), 1, 1, 1).uniform_(0.7, 1.3)
            side = torch.where(torch.rand(len(part)) < 0.5, -1.0, 1.0)
            batch = torch.where(side[:, None, None, None] < 0, batch.flip(3), batch)
            optimizer.zero_grad()
            nn.functional.mse_loss(net(batch)[:, 0], wanted[part] * side).backward()
            optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        steering: Values = torch.cat([net(part)[:, 0] for part in images.split(256)]).double().numpy()
    return steering


if __name__ == "__main__":
    main()
