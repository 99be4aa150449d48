"""Regions in the settings: each becomes the settings of a camera of its own."""

import pytest

from camapp.capture.source import options_of
from camapp.core.errors import SettingsError
from camapp.core.models import load_model
from camapp.core.regions import by_region, group_of_regions
from camapp.core.settings import load_cameras, load_settings, to_toml

GATE, BIN = "gate=0.5,0.25,0.25,0.5:models/gate.npz", "bin=0,0,0.2,0.1"


def test_a_region_has_its_own_name_rectangle_model_and_files():
    given = {"region": [GATE, BIN], "model": "mnist", "log": "logs/all.jsonl", "record": "out.mp4", "clips": "c"}
    gate, other = by_region([load_settings(given, environment={})])
    assert (gate.name, gate.roi, gate.model) == ("gate", (0.5, 0.25, 0.25, 0.5), "models/gate.npz")
    assert (other.name, other.roi, other.model) == ("bin", (0, 0, 0.2, 0.1), "mnist")
    assert (gate.log, str(gate.record), str(gate.clips)) == ("logs/all-gate.jsonl", "out-gate.mp4", "c/gate")
    assert other.log == "logs/all-bin.jsonl"
    assert group_of_regions(gate) == group_of_regions(other) is not None


def test_a_camera_without_regions_and_a_log_on_stdout_stay_as_they_are():
    plain = load_settings({"log": "-"}, environment={})
    assert by_region([plain]) == [plain]
    assert group_of_regions(plain) is None
    (gate,) = by_region([load_settings({"log": "-", "region": GATE}, environment={})])
    assert gate.log == "-"
    assert gate.record is gate.drawn is None


def test_regions_are_read_from_the_environment_and_files_and_written_back(tmp_path):
    given = load_settings({}, environment={"CAMAPP_REGION": f"{GATE}; {BIN}"})
    assert given.region == (GATE, BIN)
    config = tmp_path / "camapp.toml"
    config.write_text(to_toml(given))
    assert load_settings({}, config, {}) == given
    config.write_text(f'[[camera]]\nname = "yard"\nregion = ["{GATE}", "{BIN}"]\n[[camera]]\nname = "hall"\n')
    assert [camera.name for camera in by_region(load_cameras({}, config, {}))] == ["gate", "bin", "hall"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gate", "does not begin with NAME="),
        ("the gate=0,0,1,1", "a name is letters"),
        ("gate=0,0,1", "needs x,y,width,height"),
        ("gate=0,0,1,x", "needs x,y,width,height"),
        ("gate=0,0,1,1:", "ends with a colon"),
        ("gate=0,0,0,1", "must lie in the image"),
        ("gate=0.5,0,0.6,1", "must lie in the image"),
        ("gate=-0.1,0,0.6,1", "leaves the image"),
        ("gate=nan,0,0.6,1", "leaves the image"),
    ],
)
def test_a_wrong_region_is_refused_with_what_is_allowed(text, message):
    with pytest.raises(SettingsError, match=message):
        load_settings({"region": [text]}, environment={})


def test_names_are_different_and_a_region_is_not_given_twice(tmp_path):
    with pytest.raises(SettingsError, match="two are named 'gate'"):
        load_settings({"region": [GATE, GATE]}, environment={})
    with pytest.raises(SettingsError, match="--region and --roi"):
        load_settings({"region": [GATE], "roi": "0,0,1,1"}, environment={})
    config = tmp_path / "camapp.toml"
    config.write_text(f'[[camera]]\nname = "gate"\n[[camera]]\nname = "yard"\nregion = ["{GATE}"]\n')
    with pytest.raises(SettingsError, match="two cameras or regions are named 'gate'"):
        by_region(load_cameras({}, config, {}))
    with pytest.raises(SettingsError, match="--region is for one camera"):
        load_cameras({"region": [BIN]}, config, {})


def test_a_small_region_gets_as_many_pixels_as_its_model_has():
    (gate, _) = by_region([load_settings({"region": ["gate=0.5,0.25,0.02,0.05", BIN]}, environment={})])
    model = load_model(gate)
    assert options_of(gate, model).model_size == (28 / 0.02, 28 / 0.05)
    assert options_of(load_settings({}, environment={}), model).model_size == (320, 240)
