import pytest

from camapp.core.errors import SettingsError
from camapp.core.settings import load_cameras, load_settings, to_toml
from camapp.core.zones import MAX_PLACES, CountingLine, Zone, parse_lines, parse_zones

SQUARE = "hall=0,0 1,0 1,1 0,1"


def test_zones_and_lines_are_read_from_flags_variables_and_files(tmp_path):
    hall = Zone("hall", ((0, 0), (1, 0), (1, 1), (0, 1)))
    gate = CountingLine("gate", (0.5, 1), (0.5, 0))
    given = load_settings({"zone": [SQUARE, "a-1=0,0 0.5,0 0,.5"], "line": ["gate=0.5,1,0.5,0"]}, environment={})
    assert parse_zones(given.zone) == (hall, Zone("a-1", ((0, 0), (0.5, 0), (0, 0.5))))
    assert parse_lines(given.line) == (gate,)
    variables = {"CAMAPP_ZONE": f"{SQUARE}; b=0,0 .5,0 0,.5", "CAMAPP_LINE": "gate=0.5,1,0.5,0"}
    assert [zone.name for zone in parse_zones(load_settings({}, environment=variables).zone)] == ["hall", "b"]
    config = tmp_path / "camapp.toml"
    config.write_text(f'line = ["gate=0.5,1,0.5,0"]\n[[camera]]\nzone = ["{SQUARE}"]\n')
    (camera,) = load_cameras({}, config, {})
    assert (parse_zones(camera.zone), parse_lines(camera.line)) == ((hall,), (gate,))
    config.write_text(to_toml(given))
    assert load_settings({}, config, {}) == given


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("zone", "0,0 1,0 1,1", "does not begin with NAME="),
        ("zone", "=0,0 1,0 1,1", "does not begin with NAME="),
        ("zone", "front door=0,0 1,0 1,1", "letters, digits, - and _"),
        ("zone", "a=0,0 1,0", "'a' has 2 corners; a zone has 3 to 64"),
        ("zone", "a=", "'a' has 0 corners"),
        ("zone", "a=0,0 1,0 0,0", "has 2 corners"),
        ("zone", "a=0,0 1,0 1,1 0,1 1,0.5,0", "needs corners x,y separated by spaces, not '1,0.5,0'"),
        ("zone", "a=0,0 1,x 1,1", "not '1,x'"),
        ("zone", "a=0,0 1.2,0 1,1", "'a' leaves the image at 1.2"),
        ("zone", "a=0,0 -0.1,0 1,1", "leaves the image at -0.1"),
        ("zone", "a=0,0 nan,0 1,1", "leaves the image at nan"),
        ("zone", "a=0,0 inf,0 1,1", "leaves the image at inf"),
        ("zone", "a=0,0 1,1 1,0 0,1", "crosses or touches itself"),
        ("zone", "a=0,0 1,0 1,1 0.5,0 0,1", "crosses or touches itself"),
        ("zone", "a=0,0 1,0 0.5,0", "crosses or touches itself"),
        ("zone", "a=0,0 0.5,0.5 1,1", "crosses or touches itself"),
        ("zone", "a=0,0 1,0 1,1 1,0 0,1", "same corner twice"),
        ("line", "a=0,0,1", "needs two ends x,y,x,y, not '0,0,1'"),
        ("line", "a=0,0 1,1", "needs two ends"),
        ("line", "a=0.2,0.2,0.2,0.2", "begins where it ends"),
        ("line", "a=0,0,1,1.01", "leaves the image at 1.01"),
        ("line", "0,0,1,1", "does not begin with NAME="),
    ],
)
def test_what_is_not_allowed_is_one_line_with_the_reason(name, text, reason):
    with pytest.raises(SettingsError) as caught:
        load_settings({name: [text]}, environment={})
    assert f"command line: --{name} = " in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_differ_and_their_number_is_bounded():
    with pytest.raises(SettingsError, match="two are named 'hall'; give each a different name"):
        load_settings({"zone": [SQUARE, SQUARE]}, environment={})
    load_settings({"zone": [SQUARE], "line": ["hall=0,0,1,1"]}, environment={})
    many = [f"n{i}=0,0,1,1" for i in range(MAX_PLACES + 1)]
    with pytest.raises(SettingsError, match="33 are given; at most 32 are allowed"):
        load_settings({"line": many}, environment={})


def test_a_first_corner_repeated_at_the_end_closes_the_zone():
    assert parse_zones(["a=0,0 1,0 1,1 0,0"])[0].corners == ((0, 0), (1, 0), (1, 1))


def test_corners_in_either_direction_and_bays_are_allowed():
    parse_zones(["a=0,1 1,1 1,0 0,0", "b=0,0 1,0 1,1 0.5,0.2 0,1", "c=0,0 0.5,0 1,0 1,1 0,1"])
