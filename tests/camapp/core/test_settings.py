"""How settings are merged and checked, and where they are printed."""

import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from camapp.commands.calibrate_track import store
from camapp.core.errors import SettingsError
from camapp.core.ground_camera import GroundCamera
from camapp.core.settings import ALIASES, GROUPS, Settings, group_of, load_cameras, load_settings, to_toml

ROOT = Path(__file__).parents[3]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "camapp.toml"
    path.write_text(text)
    return path


def test_defaults_need_nothing():
    assert load_settings({}, environment={}) == Settings()


def test_flags_outrank_environment_outranks_file_outranks_defaults(tmp_path):
    config = write(tmp_path, 'fps = 10.0\nworkers = 3\nsource = "a.mp4"\n')
    settings = load_settings({"fps": "30"}, config, {"CAMAPP_FPS": "20", "CAMAPP_WORKERS": "2", "HOME": "/"})
    assert (settings.fps, settings.workers, settings.source, settings.top) == (30.0, 2, "a.mp4", 3)


def test_each_form_of_value_is_read():
    settings = load_settings(
        {
            "size": "640x480",
            "roi": "0.1,0.2,0.5,0.5",
            "mean": "0.5",
            "camera_control": ["AfMode=Continuous", "ExposureTime=10000"],
            "loop": True,
            "record": "out.mp4",
        },
        environment={},
    )
    assert settings.size == (640, 480)
    assert settings.roi == (0.1, 0.2, 0.5, 0.5)
    assert settings.mean == (0.5,)
    assert settings.controls == {"AfMode": "Continuous", "ExposureTime": "10000"}
    assert settings.record == Path("out.mp4")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fsp = 30", "unknown setting 'fsp'; did you mean 'fps'"),
        ("fps = -1", "greater than 0"),
        ("fps = inf", "finite"),
        ('fps = "fast"', "fps = 'fast'"),
        ("rotate = 45", "0, 90, 180 or 270"),
        ('display = "hdmi"', "'auto', 'window', 'drm', 'kiosk' or 'none'"),
        ('size = "big"', "WIDTHxHEIGHT"),
        ("size = [4, 4]", "greater than or equal to 16"),
        ("workers = 1.5", "integer"),
        ('camera_control = ["AfMode"]', "NAME=VALUE"),
        ("std = [0.0]", "greater than 0"),
        ("std = [inf]", "finite"),
        ("mean = [0.5, nan, 0.5]", "finite"),
        ('mean = "nan"', "finite"),
        ("[kamera]\nfps = 1", "unknown setting 'kamera'"),
    ],
)
def test_a_bad_value_is_refused_with_file_key_value_and_what_is_allowed(tmp_path, line, reason):
    config = write(tmp_path, line)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, config, {})
    assert reason in str(caught.value)
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not caught.value.usage


def test_the_error_names_the_origin_of_a_bad_value():
    with pytest.raises(SettingsError, match="environment variable CAMAPP_FPS: fps = '0'"):
        load_settings({}, environment={"CAMAPP_FPS": "0"})
    with pytest.raises(SettingsError, match="command line: --target-fps = '0'") as caught:
        load_settings({"target_fps": "0"}, environment={})
    assert caught.value.usage


def test_camera_controls_in_the_environment_are_separated_by_semicolons():
    settings = load_settings({}, environment={"CAMAPP_CAMERA_CONTROL": "ColourGains=1.5,2.0; AfMode=Manual"})
    assert settings.controls == {"ColourGains": "1.5,2.0", "AfMode": "Manual"}


def test_thresholds_must_not_cross():
    with pytest.raises(SettingsError, match="threshold_low"):
        load_settings({"threshold_low": "0.9"}, environment={})


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "camapp.toml"
    path.write_bytes(b'\xef\xbb\xbfmodel = "mnist"\r\nfps = 7.0\r\n')
    assert load_settings({}, path, {}).fps == 7


def test_a_missing_or_invalid_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot read"):
        load_settings({}, tmp_path / "absent.toml", {})
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings({}, write(tmp_path, "fps = = 3"), {})
    (tmp_path / "camapp.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings({}, tmp_path / "camapp.toml", {})


def test_the_variables_of_an_on_label_command_are_not_settings():
    assert load_settings({}, environment={"CAMAPP_LABEL": "7", "CAMAPP_SCORE": "1", "CAMAPP_SEQ": "3"}) == Settings()


def test_the_printed_configuration_reads_back_the_same(tmp_path):
    settings = load_settings(
        {"size": "640x480", "camera_control": ["A=1"], "log": 'odd "name"\\\t.jsonl', "record": "a.mp4", "hud": False},
        environment={},
    )
    text = to_toml(settings)
    assert load_settings({}, write(tmp_path, text), {}) == settings
    named = {line.lstrip("# ").partition(" =")[0] for line in text.splitlines() if " =" in line}
    assert named == {item.name for item in fields(Settings)}
    tomllib.loads(text)


TWO_CAMERAS = """
model = "lenet"
fps = 20
[[camera]]
name = "door"
source = "v4l2://0"
[[camera]]
source = "v4l2://2"
fps = 10
"""


def test_each_camera_table_outranks_the_keys_above_it_and_is_outranked_by_the_environment(tmp_path):
    door, other = load_cameras({"workers": "1"}, write(tmp_path, TWO_CAMERAS), {"CAMAPP_MODEL": "mnist"})
    assert (door.name, door.source, door.fps, door.model, door.workers) == ("door", "v4l2://0", 20, "mnist", 1)
    assert (other.name, other.source, other.fps) == ("camera2", "v4l2://2", 10)


def test_a_camera_that_does_not_share_workers_may_set_their_number(tmp_path):
    cameras = load_cameras({}, write(tmp_path, TWO_CAMERAS + "workers = 2"), {})
    assert [camera.workers for camera in cameras] == [0, 2]
    (alone,) = load_cameras({"share_workers": True}, write(tmp_path, "[[camera]]\nworkers = 2"), {})
    assert alone.workers == 2


def test_a_command_for_one_camera_refuses_several(tmp_path):
    with pytest.raises(SettingsError, match="2 cameras; only 'camapp run'"):
        load_settings({}, write(tmp_path, TWO_CAMERAS), {})
    one = '[[camera]]\nsource = "v4l2://0"'
    assert load_settings({"source": "v4l2://1"}, write(tmp_path, one), {}).source == "v4l2://1"


@pytest.mark.parametrize(
    ("text", "command_line", "message"),
    [
        ('[[camera]]\nname = "a"\n[[camera]]\nname = "a"', {}, "two cameras are named 'a'"),
        ("[[camera]]\nfpz = 3", {}, r"\[\[camera\]\] camera1: unknown setting 'fpz'; did you mean 'fps'"),
        ("[[camera]]\ndebug = true", {}, "'debug' is for the whole run"),
        ("camera = 3", {}, "each under a line"),
        ("camera = []", {}, "each under a line"),
        (TWO_CAMERAS, {"source": "auto"}, "--source is for one camera"),
        ('name = "../x"', {}, "letters, digits"),
        (TWO_CAMERAS + "workers = 2", {"share_workers": True}, "'workers' is for all cameras that share"),
        ("share_workers = true" + TWO_CAMERAS + "threads = 2", {}, "'threads' .* above the first"),
    ],
)
def test_invalid_camera_tables_are_refused(tmp_path, text, command_line, message):
    with pytest.raises(SettingsError, match=message):
        load_cameras(command_line, write(tmp_path, text), {})


def test_the_web_page_is_set_for_the_whole_run(tmp_path):
    config = tmp_path / "camapp.toml"
    config.write_text('[[camera]]\nweb = "8080"\n')
    with pytest.raises(SettingsError, match="'web' is for the whole run"):
        load_cameras({}, config, {})


FORMER = [(former, name, value) for (former, name), value in zip(ALIASES.items(), (77.0, 12.5), strict=True)]


@pytest.mark.parametrize(("former", "name", "value"), FORMER)
def test_a_former_name_works_in_a_file_a_variable_and_as_a_keyword(tmp_path, former, name, value):
    config = write(tmp_path, f"{former} = {value}\n")
    assert getattr(load_settings({}, config, {}), name) == value
    assert getattr(load_settings({}, environment={f"CAMAPP_{former.upper()}": str(value)}), name) == value
    assert getattr(load_settings({former: str(value)}, environment={}), name) == value
    (camera,) = load_cameras({}, write(tmp_path, f"{name} = 1.0\n[[camera]]\n{former} = {value}\n"), {})
    assert getattr(camera, name) == value


@pytest.mark.parametrize(("former", "name", "value"), FORMER)
def test_a_former_name_outranks_and_is_outranked_like_the_present_one(tmp_path, former, name, value):
    config = write(tmp_path, f"{name} = 1.0\n")
    assert getattr(load_settings({former: str(value)}, config, {}), name) == value
    config = write(tmp_path, f"{former} = 1.0\n")
    assert getattr(load_settings({name: str(value)}, config, {}), name) == value


@pytest.mark.parametrize(("former", "name", "value"), FORMER)
def test_a_former_and_the_present_name_together_are_refused(tmp_path, former, name, value):
    both = {former: str(value), name: str(value)}
    config = write(tmp_path, "".join(f"{key} = {text}\n" for key, text in both.items()))
    for arguments in (
        ({}, config, {}),
        ({}, None, {f"CAMAPP_{key.upper()}": text for key, text in both.items()}),
        (both, None, {}),
    ):
        with pytest.raises(SettingsError, match=f"'{former}' is the former name of '{name}'") as caught:
            load_settings(*arguments)
        assert caught.value.usage == bool(arguments[0])


def test_a_bad_value_is_shown_under_the_name_that_was_given():
    with pytest.raises(SettingsError, match="command line: --camera-view = '999' is not allowed"):
        load_settings({"camera_view": "999"}, environment={})


def test_a_calibration_replaces_values_under_their_former_names(tmp_path):
    config = write(tmp_path, 'camera_view = 50.0\ncamera_bend = 3.0\nmodel = "track"\n')
    store(GroundCamera.of((640, 480), 0.3, 0.3, 1.2), config)
    assert "camera_view" not in config.read_text()
    assert load_settings({}, config, {}).camera_hfov == pytest.approx(68.75, abs=0.01)


def test_each_setting_belongs_to_one_group():
    grouped = [item.name for group in GROUPS.values() for item in fields(group)]
    assert grouped == [item.name for item in fields(Settings)]
    assert (group_of("source"), group_of("web_hosts"), group_of("debug")) == ("Input", "Web", "Limits")


def test_the_settings_page_is_up_to_date():
    script = ROOT / "docs/make_settings.py"
    page = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60).stdout
    assert (ROOT / "docs/settings.md").read_text() == page, "run: python docs/make_settings.py > docs/settings.md"
