import os
import stat
import threading
from dataclasses import replace

import pytest

from camapp.core.settings import load_settings
from camapp.system.state_dir import (
    StateError,
    recollect,
    recollected,
    remember,
    remembered,
    state_directory,
    web_token,
)

ROI = (0.1, 0.2, 0.5, 0.5)


def settings(**values):
    return load_settings(values, environment={})


def test_the_directory_comes_from_systemd_or_xdg(tmp_path):
    assert str(state_directory({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"})) == "/var/lib/a"
    assert str(state_directory({"XDG_STATE_HOME": "/x"})) == "/x/camapp"
    assert state_directory({"XDG_STATE_HOME": "relative"}).parts[-3:] == (".local", "state", "camapp")


def test_the_token_is_created_once_and_only_its_owner_can_read_it(tmp_path):
    token, is_new = web_token(tmp_path / "state")
    assert is_new
    assert len(token) >= 32
    path = tmp_path / "state" / "web-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert web_token(tmp_path / "state") == (token, False)
    assert os.listdir(path.parent) == ["web-token"]


def test_the_token_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "link"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *arguments, name=name, call=call: [calls.append(name), call(*arguments)])
    web_token(tmp_path)
    assert calls == ["fsync", "link"]


@pytest.mark.parametrize("content", ["", "short", "x" * 20 + "\n", "tab\tinside" * 5])
def test_a_file_without_a_token_is_rejected(tmp_path, content):
    path = tmp_path / "web-token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(StateError, match="delete it"):
        web_token(tmp_path)


def test_a_token_that_other_users_can_read_is_rejected(tmp_path):
    web_token(tmp_path)
    (tmp_path / "web-token").chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        web_token(tmp_path)


def test_a_saved_region_is_used_at_the_next_start(tmp_path, caplog):
    caplog.set_level("INFO")
    remember(tmp_path, "camera", "roi", ROI)
    remember(tmp_path, "porch", "roi", (0, 0, 0.5, 1))
    assert remembered(settings(), tmp_path).roi == ROI
    # As --roi and --region take it.
    assert "camera uses the region chosen on its page: 0.1,0.2,0.5,0.5 (" in caplog.text
    assert remembered(settings(name="porch"), tmp_path).roi == (0, 0, 0.5, 1)
    assert remembered(settings(name="other"), tmp_path).roi is None
    remember(tmp_path, "camera", "roi", None)
    assert remembered(settings(), tmp_path).roi is None
    assert remembered(settings(name="porch"), tmp_path).roi == (0, 0, 0.5, 1)


def test_the_settings_have_precedence(tmp_path):
    remember(tmp_path, "camera", "roi", ROI)
    given = replace(settings(), roi=(0.0, 0.0, 0.3, 0.3))
    assert remembered(given, tmp_path) is given


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"cameras": 3}', '{"cameras": {"camera": 1}}', "\0\0", '{"cameras": {"camera": {"roi": [9]}}}'],
)
def test_a_damaged_file_is_ignored_with_a_warning(tmp_path, caplog, content):
    (tmp_path / "remembered.json").write_text(content)
    assert remembered(settings(), tmp_path).roi is None
    assert "ignored" in caplog.text
    remember(tmp_path, "camera", "roi", ROI)
    assert remembered(settings(), tmp_path).roi == ROI


def test_changes_of_several_runs_at_once_are_all_kept(tmp_path):
    names = [f"camera{number}" for number in range(12)]
    threads = [threading.Thread(target=remember, args=(tmp_path, name, "roi", ROI)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [remembered(settings(name=name), tmp_path).roi for name in names] == [ROI] * len(names)


ZONE, LINE = "porch=0.1,0.1 0.9,0.1 0.5,0.9", "gate=0.1,0.5,0.9,0.5"


def test_saved_zones_and_lines_are_used_unless_the_settings_have_their_own(tmp_path):
    remember(tmp_path, "camera", "zone", (ZONE,))
    remember(tmp_path, "camera", "line", (LINE,))
    remember(tmp_path, "camera", "roi", ROI)
    found = remembered(settings(), tmp_path)
    assert (found.zone, found.line, found.roi) == ((ZONE,), (LINE,), ROI)
    own = remembered(settings(zone=["yard=0,0 1,0 1,1"]), tmp_path)
    assert (own.zone, own.line) == (("yard=0,0 1,0 1,1",), (LINE,))
    remember(tmp_path, "camera", "zone", ())
    assert remembered(settings(), tmp_path).zone == ()


def test_a_saved_zone_that_is_not_allowed_is_ignored(tmp_path, caplog):
    remember(tmp_path, "camera", "zone", ("porch=0,0 1,1",))
    assert remembered(settings(), tmp_path).zone == ()
    assert "it is ignored" in caplog.text


def test_what_was_learned_belongs_to_a_camera_and_its_source(tmp_path):
    recollect(tmp_path, "camera", "picamera://0", {"camera_pitch_deg": 12.5})
    remember(tmp_path, "camera", "roi", ROI)
    assert recollected(tmp_path, "camera", "picamera://0") == {"camera_pitch_deg": 12.5}
    assert recollected(tmp_path, "camera", "v4l2://0") == recollected(tmp_path, "other", "picamera://0") == {}
    assert remembered(settings(), tmp_path).roi == ROI


@pytest.mark.parametrize("kept", ["[]", "5", "[5]", '[{"source": "auto", "a": "x", "b": NaN, "c": null}]'])
def test_damaged_values_that_were_learned_are_ignored(tmp_path, kept):
    (tmp_path / "remembered.json").write_text('{"cameras": {"camera": {"learned": ' + kept + "}}}")
    assert recollected(tmp_path, "camera", "auto") == {}
