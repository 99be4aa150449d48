import math
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from camapp.commands.calibrate_track import chessboard, fit_camera, run_calibration
from camapp.core.errors import SettingsError
from camapp.core.ground_camera import GroundCamera
from camapp.core.settings import load_settings
from tests.camapp.desktop import Desktop

SIZE = (640, 480)
SHEET = np.array([[-0.3, 0.5], [0.3, 0.5], [0.3, 1.1], [-0.3, 1.1]])


@pytest.mark.parametrize(
    ("height", "pitch", "roll", "hfov", "distortion"),
    [(0.3, 18, 0, 66, 0), (0.15, 30, 4, 80, 0), (1.5, 12, -3, 55, 0), (0.25, 25, 1, 120, 50)],
)
@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_four_points_on_the_ground_give_the_pose_of_the_camera(height, pitch, roll, hfov, distortion, turn):
    camera = GroundCamera.of(
        SIZE, height, math.radians(pitch), math.radians(hfov), math.radians(roll), math.radians(distortion)
    )
    sheet = SHEET * height / 0.3
    frame = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    pixels, seen = camera.project(sheet @ frame)
    assert seen.all()
    found = fit_camera(SIZE, pixels, sheet, math.radians(distortion))
    assert found.height == pytest.approx(height, rel=0.01)
    assert math.degrees(found.pitch) == pytest.approx(pitch, abs=0.3)
    assert math.degrees(found.roll) == pytest.approx(roll, abs=0.3)
    assert math.degrees(found.across) == pytest.approx(hfov, abs=0.5)


@pytest.mark.slow
def test_random_cameras_are_found_from_noisy_pixels():
    rng = np.random.default_rng(3)
    errors = []
    while len(errors) < 40:
        height, pitch, roll, hfov = rng.uniform((0.1, 0.2, -0.15, 0.8), (2.0, 0.9, 0.15, 1.9))
        distortion = rng.choice([0.0, rng.uniform(0.2, 1.0)])
        camera = GroundCamera.of(SIZE, height, pitch, hfov, roll, distortion)
        pixels, seen = camera.project((SHEET * [2, 1] + [0, 0.1]) * height / 0.3)
        if not seen.all() or (pixels < 0).any() or (pixels > SIZE).any() or np.ptp(pixels[:, 1]) < 100:
            continue
        found = fit_camera(SIZE, pixels + rng.normal(0, 0.5, pixels.shape), SHEET * [2, 1] * height / 0.3, distortion)
        off = np.degrees([found.pitch - pitch, found.roll - roll, found.across - hfov])
        errors.append([100 * abs(found.height / height - 1), *abs(off)])
    # Percent of the height; degrees of pitch, roll and field of view.
    assert (np.median(errors, axis=0) < (2, 0.3, 0.3, 1.5)).all()
    assert (np.max(errors, axis=0) < (12, 2, 2, 8)).all()


def test_points_that_fold_or_lie_on_a_line_are_refused():
    camera = GroundCamera.of(SIZE, 0.3, 0.4, 1.2)
    pixels, _ = camera.project(SHEET)
    with pytest.raises(ValueError, match="fold over"):
        fit_camera(SIZE, pixels, SHEET[[1, 0, 2, 3]])
    with pytest.raises(ValueError, match="fold over"):
        fit_camera(SIZE, pixels, SHEET * [-1, 1])
    with pytest.raises(ValueError, match="on one line"):
        fit_camera(SIZE, pixels, np.array([[0, 1], [0, 2], [0, 3], [0, 4.0]]))
    with pytest.raises(ValueError, match="at least 4"):
        fit_camera(SIZE, pixels[:3], SHEET[:3])
    with pytest.raises(ValueError, match="two of the points are the same"):
        fit_camera(SIZE, pixels[[0, 1, 2, 2]], SHEET[[0, 1, 2, 2]])
    in_line = np.array([[-0.3, 0.5], [0.0, 0.5], [0.3, 0.5], [0.0, 1.1]])
    with pytest.raises(ValueError, match="three lie on one line"):
        fit_camera(SIZE, camera.project(in_line)[0], in_line)
    with pytest.raises(ValueError, match="finite"):
        fit_camera(SIZE, pixels * math.nan, SHEET)


def test_points_that_fit_no_camera_are_refused():
    camera = GroundCamera.of(SIZE, 0.3, 0.4, 1.2)
    board = np.stack(np.meshgrid(np.linspace(-0.3, 0.3, 3), np.linspace(0.5, 1.1, 3)), axis=-1).reshape(-1, 2)
    pixels, _ = camera.project(board)
    pixels[4] += 60
    with pytest.raises(ValueError, match="no camera sees"):
        fit_camera(SIZE, pixels, board)


def test_a_chessboard_on_the_ground_gives_the_pose_too():
    camera = GroundCamera.of(SIZE, 0.4, 0.6, 1.1, 0.03)
    columns, rows, square = 7, 5, 0.05
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    ground, _ = camera.unproject(np.stack([x, y], axis=-1))
    u, v = (ground[..., 0] + 0.2) / square, (ground[..., 1] - 0.35) / square
    inside = (u > 0) & (u < columns + 1) & (v > 0) & (v < rows + 1)
    shade = np.where(inside & ((np.floor(u) + np.floor(v)) % 2 == 0), 20, 230).astype(np.uint8)
    image = cv2.cvtColor(cv2.GaussianBlur(shade, (0, 0), 0.7), cv2.COLOR_GRAY2RGB)
    pixels, places = chessboard(image, columns, rows, square)
    found = fit_camera(SIZE, pixels, places)
    assert found.height == pytest.approx(0.4, rel=0.03)
    assert math.degrees(found.pitch) == pytest.approx(math.degrees(0.6), abs=1)
    with pytest.raises(ValueError, match="no chessboard"):
        chessboard(np.full_like(image, 90), columns, rows, square)
    with pytest.raises(ValueError, match="too small"):
        chessboard(image, 2, 5, square)


def test_the_command_writes_the_camera_into_a_settings_file(tmp_path):
    camera = GroundCamera.of(SIZE, 0.3, 0.4, 1.2)
    image, file = tmp_path / "seen.png", tmp_path / "car.toml"
    cv2.imwrite(str(image), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    file.write_text('model = "track"\ncamera_height = 9.0\n\n[[camera]]\nname = "left"\nsource = "pattern://digits"\n')
    pixels, _ = camera.project(SHEET)
    points = [f"{x},{y}={right},{ahead}" for (x, y), (right, ahead) in zip(pixels, SHEET, strict=True)]
    assert "0.300 m" in run_calibration(image, points, None, 0.025, 0.0, file)
    assert file.read_text().count("camera_height") == 1
    assert file.read_text().index("camera_hfov") < file.read_text().index("[[camera]]")
    file.write_text(file.read_text().partition("[[")[0])
    settings = load_settings({}, file)
    assert (settings.model, settings.camera_height) == ("track", pytest.approx(0.3, abs=0.001))
    assert settings.camera_pitch == pytest.approx(math.degrees(0.4), abs=0.1)
    for wrong, board, reason in (
        (points[:3], None, "at least 4"),
        ([*points[:3], "1,2"], None, "a point is"),
        ([], None, "either"),
        ([], "7by5", "a size is"),
    ):
        with pytest.raises(SettingsError, match=reason):
            run_calibration(image, wrong, board, 0.025, 0.0, file)
    with pytest.raises(SettingsError, match="missing"):
        run_calibration(tmp_path / "missing.png", points, None, 0.025, 0.0, file)


@pytest.mark.parametrize(
    ("before", "scale", "reason"),
    [
        ("this is = = no TOML\n", 1, "not valid TOML"),
        ('modle = "track"\n', 1, "unknown setting 'modle'; did you mean 'model'"),
        ('[[camera]]\nname = "left"\ncamera_height = 9.0\n', 1, r"\[\[camera\]\] left has its own camera_height"),
        ("", 1000, "camera_height = .* is not allowed"),  # places in millimetres
    ],
)
def test_a_file_that_run_would_refuse_is_not_written(tmp_path, before, scale, reason):
    image, file = tmp_path / "seen.png", tmp_path / "car.toml"
    cv2.imwrite(str(image), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    file.write_text(before)
    pixels, _ = GroundCamera.of(SIZE, 0.3, 0.4, 1.2).project(SHEET)
    points = [f"{x},{y}={right},{ahead}" for (x, y), (right, ahead) in zip(pixels, SHEET * scale, strict=True)]
    with pytest.raises(SettingsError, match=f"^{file}: .*{reason}" if scale == 1 else reason) as caught:
        run_calibration(image, points, None, 0.025, 0.0, file)
    assert "partial" not in str(caught.value)
    assert file.read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"seen.png", "car.toml"}


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("Xvfb", "xdotool", "import"))), reason="needs Xvfb and xdotool")
def test_corners_clicked_in_a_window_give_the_pose_too(tmp_path):
    camera = GroundCamera.of((1400, 700), 0.3, 0.6, 1.3)
    image, file = tmp_path / "seen.png", tmp_path / "car.toml"
    cv2.imwrite(str(image), np.full((700, 1400, 3), 90, np.uint8))
    pixels, _ = camera.project(np.array([[-0.25, 0.5], [-0.05, 0.5], [-0.05, 0.9], [-0.25, 0.9]]))
    desktop = Desktop()
    command = [sys.executable, "-m", "camapp", "calibrate-track", str(image), "--rectangle", "0.2x0.4"]
    environment = {"DISPLAY": desktop.name, "QT_QPA_PLATFORM": "xcb", "HOME": str(tmp_path)}
    child = subprocess.Popen([*command, "--into", str(file)], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        window = ""
        until = time.monotonic() + 30
        while not window and time.monotonic() < until:
            window = desktop.run("xdotool", "search", "--onlyvisible", "--name", "click the ground").decode().strip()
        assert window
        # The window is visible, but does not take events yet.
        time.sleep(0.5)
        desktop.run("xdotool", "windowmove", window, "0", "0", "windowfocus", window)
        for number, (x, y) in enumerate([(9, 9), *pixels * 1280 / 1400]):
            desktop.run("xdotool", "mousemove", str(int(x)), str(int(y)), "sleep", "0.1", "click", "1", "sleep", "0.1")
            # The first click is wrong, and is removed.
            if number == 0:
                desktop.run("xdotool", "key", "BackSpace", "sleep", "0.1")
        desktop.run("xdotool", "key", "Return")
        out, _ = child.communicate(timeout=20)
    finally:
        child.kill()
        desktop.kill()
    assert child.returncode == 0
    assert "over the ground" in out
    assert load_settings({}, file).camera_height == pytest.approx(0.3, abs=0.01)


def test_a_rectangle_needs_a_display_and_a_size(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    image = tmp_path / "seen.png"
    cv2.imwrite(str(image), np.zeros((48, 64, 3), np.uint8))
    for size, reason in (("0.6x0.6", "no display"), ("0.6", "a rectangle is"), ("0x1", "a rectangle is")):
        with pytest.raises(SettingsError, match=reason):
            run_calibration(image, [], None, 0.025, 0.0, tmp_path / "car.toml", size)
