"""Installing and removing the service, in a temporary root folder, with commands recorded instead of run."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from camapp.app import check
from camapp.commands import install as module
from camapp.commands.install import Installer, InstallError, ServiceKind, install, uninstall
from camapp.core.errors import CamappError, ExitCode, SettingsError
from camapp.core.models import SHIPPED
from camapp.core.settings import Settings, load_settings
from camapp.pipeline.checks import Findings

ROOT = Path(__file__).parents[3]


class Commands:
    """Records commands; `venv` and `useradd` leave the files that the real ones would."""

    def __init__(self, root):
        self.root = root
        self.done = []
        self.failing = {}
        self.codes = {}

    def __call__(self, command):
        line = " ".join(map(str, command))
        self.done.append(line)
        if " -m venv " in line:
            (self.root / "opt/camapp/bin").mkdir(parents=True)
            (self.root / "opt/camapp/pyvenv.cfg").touch()
            (self.root / "opt/camapp/bin/python").touch()
        if "useradd" in line:
            with (self.root / "etc/passwd").open("a") as file:
                file.write("camapp:x:990:990::/var/lib/camapp:/usr/sbin/nologin\n")
        for word, answer in self.failing.items():
            if word in line:
                return subprocess.CompletedProcess(command, 1, answer)
        code = next((code for word, code in self.codes.items() if word in line), 0)
        return subprocess.CompletedProcess(command, code, "")

    def has(self, *words):
        return any(all(word in line for word in words) for line in self.done)


class Fresh:
    """A machine with systemd running and groups video and render, without camapp."""

    def __init__(self, root):
        self.root = root
        self.commands = Commands(root)
        self.reported = []
        (root / "etc").mkdir()
        (root / "etc/group").write_text("root:x:0:\nvideo:x:44:\nrender:x:106:\n")
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\n")
        (root / "run/systemd/system").mkdir(parents=True)

    def installer(self, kind=ServiceKind.HEADLESS, settings=None):
        return Installer(kind, settings, self.root, self.commands)

    def install(self, kind=ServiceKind.HEADLESS, settings=None, dry_run=False):
        install(self.installer(kind, settings), dry_run, self.reported.append)

    def uninstall(self, keep_data=False):
        uninstall(self.installer(), False, keep_data, self.reported.append)

    def files(self):
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    # Loading models and opening sources is for `real_check`.
    monkeypatch.setattr(module, "check", lambda cameras, outputs: Findings())
    return Fresh(tmp_path)


@pytest.fixture
def real_check(machine, monkeypatch):
    monkeypatch.setattr(module, "check", check)


def test_a_setting_that_needs_a_package_installs_it(machine):
    machine.install(settings=Settings(source="pattern://digits", mqtt="mqtt://pi@broker"))
    assert any("pip install" in line and line.endswith("[mqtt]") for line in machine.commands.done)
    machine.commands.done.clear()
    machine.install()  # again, with the configuration that is there now
    assert any("pip install" in line and line.endswith("[mqtt]") for line in machine.commands.done)


def test_headless_installs_application_config_and_unit_and_starts_them(machine):
    machine.install(settings=Settings(source="pattern://digits", model="lenet"))
    unit = (machine.root / "etc/systemd/system/camapp.service").read_text()
    assert "SupplementaryGroups=video render\n" in unit, "gpio does not exist here, and systemd would refuse it"
    config = load_settings({}, machine.root / "etc/camapp/config.toml", environment={})
    assert (config.source, config.model) == ("pattern://digits", "lenet")
    assert config.log == "/var/log/camapp/predictions.jsonl"
    assert config.log_on_change, "every prediction would wear an SD card out"
    assert machine.commands.has("-m venv", "opt/camapp")
    assert machine.commands.has("pip install", "--no-cache-dir")
    order = [
        next(index for index, line in enumerate(machine.commands.done) if word in line)
        for word in ("venv", "pip", "check-config", "verify", "daemon-reload", "enable", "restart")
    ]
    assert order == sorted(order)


def test_a_kiosk_by_drm_needs_no_cage(machine, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name, path=None: None if name == "cage" else f"/usr/bin/{name}")
    with pytest.raises(InstallError, match=r"sudo apt install -y cage .*--display drm"):
        machine.install(ServiceKind.KIOSK)
    machine.install(ServiceKind.KIOSK, Settings(source="picamera://0", display="drm"))
    unit = (machine.root / "etc/systemd/system/camapp-kiosk.service").read_text()
    assert "run --display drm --config" in unit
    assert "--display kiosk" not in unit


def test_a_dry_run_changes_nothing_and_names_every_step(machine):
    before = machine.files()
    machine.install(dry_run=True)
    assert machine.files() == before
    assert machine.commands.done == []
    assert any("would write" in line and "config.toml" in line for line in machine.reported)


@pytest.mark.parametrize("kind", ServiceKind)
def test_uninstalling_leaves_nothing(machine, kind):
    before = machine.files()
    machine.install(kind)
    for folder in ("var/lib/private/camapp", "var/log/private/camapp", "var/cache/private/camapp"):
        (machine.root / folder).mkdir(parents=True)
        (machine.root / folder / "file").touch()
        link = machine.root / folder.replace("private/", "")
        link.symlink_to(Path("private/camapp"))
    machine.uninstall()
    assert machine.files() == before | ({"etc/passwd"} if kind is ServiceKind.KIOSK else set())
    assert machine.commands.has("userdel", "camapp") == (kind is ServiceKind.KIOSK)
    assert not (machine.root / "opt/camapp").exists()
    machine.reported.clear()
    (machine.root / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\n")
    machine.uninstall()
    assert machine.reported == ["nothing is installed"]


def test_data_is_kept_on_request(machine):
    machine.install()
    machine.uninstall(keep_data=True)
    assert (machine.root / "etc/camapp/config.toml").exists()
    assert not (machine.root / "opt/camapp").exists()


def test_installing_twice_keeps_the_config_and_the_environment(machine):
    machine.install(settings=Settings(source="pattern://digits"))
    machine.commands.done.clear()
    machine.install(settings=Settings(source="pattern://objects"))
    assert "pattern://digits" in (machine.root / "etc/camapp/config.toml").read_text()
    assert not machine.commands.has("-m venv")
    assert machine.commands.has("pip install")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"source": "film.mp4"}, "cannot see it there"),
        ({"source": "images:///home/pi/photos"}, "cannot see it there"),
        ({"source": "/tmp/film.mp4"}, "cannot see it there"),
        ({"mqtt_password_file": Path("~/secret")}, "cannot see it there"),
        ({"log": "/srv/log.jsonl"}, "may write below /var/lib/camapp"),
        ({"record": Path("/home/pi/film.mp4")}, "may write below /var/lib/camapp"),
    ],
)
def test_files_that_the_service_could_not_reach_are_refused(machine, settings, reason):
    with pytest.raises(InstallError, match=reason):
        machine.install(settings=Settings(**settings))
    assert machine.commands.done == []
    machine.install(ServiceKind.DESKTOP, Settings(**settings))  # the user of a desktop can read them
    assert machine.commands.has("check-config")


def test_files_that_it_can_reach_are_not(machine):
    machine.install(settings=Settings(source="/srv/film.mp4", log="/var/log/camapp/log.jsonl", clips=Path("events")))
    assert machine.commands.has("restart")


@pytest.mark.parametrize("source", ["rtsp://me:secret@camera/1", "rtsp://camera/1"])
def test_a_config_with_a_password_is_readable_by_the_service_only(machine, source):
    machine.install(settings=Settings(source=source))
    mode = (machine.root / "etc/camapp/config.toml").stat().st_mode & 0o777
    assert mode == (0o640 if "secret" in source else 0o644)
    assert machine.commands.has("chgrp video") == ("secret" in source)


def test_the_installation_is_readable_in_spite_of_a_strict_umask(machine):
    usual = os.umask(0o077)
    try:
        machine.install()
        assert (machine.root / "etc/camapp").stat().st_mode & 0o777 == 0o755
        assert (machine.root / "opt/camapp").stat().st_mode & 0o777 == 0o755
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(usual)


def test_a_human_user_named_camapp_is_kept(machine):
    with (machine.root / "etc/passwd").open("a") as file:
        file.write("camapp:x:1000:1000::/home/camapp:/bin/bash\n")
    machine.install()
    machine.uninstall()
    assert not machine.commands.has("userdel")


def test_another_kind_replaces_the_first(machine):
    machine.install(ServiceKind.HEADLESS)
    machine.install(ServiceKind.KIOSK)
    assert not (machine.root / "etc/systemd/system/camapp.service").exists()
    assert (machine.root / "etc/systemd/system/camapp-kiosk.service").exists()
    assert machine.commands.has("disable", "--now", "camapp.service")
    assert machine.commands.has("useradd", "--system")


def test_without_a_running_systemd_it_is_enabled_for_the_next_boot(machine):
    shutil.rmtree(machine.root / "run/systemd")
    machine.install()
    assert machine.commands.has("systemctl enable")
    assert not machine.commands.has("restart")


def test_model_and_label_files_are_copied_to_where_the_service_can_read_them(machine, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copy(SHIPPED / "lenet.npz", home / "mine.npz")
    (home / "names.txt").write_text("\n".join("abcdefghij"))
    machine.install(settings=Settings(model=str(home / "mine.npz"), labels=str(home / "names.txt")))
    config = load_settings({}, machine.root / "etc/camapp/config.toml", environment={})
    assert config.model == str(machine.root / "etc/camapp/mine.npz")
    assert Path(config.labels).read_text() == (home / "names.txt").read_text()


def test_a_folder_of_text_dumps_is_copied_and_a_fetched_model_too(machine, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    dumps = home / "dumps"
    dumps.mkdir()
    for name in ("resnet50_conv1_weight.txt", "resnet50_conv1_bias.txt"):
        (dumps / name).write_text("0.0\n")
    machine.install(settings=Settings(model=str(dumps)))
    config = load_settings({}, machine.root / "etc/camapp/config.toml", environment={})
    assert config.model == str(machine.root / "etc/camapp/dumps")
    assert sorted(os.listdir(config.model)) == sorted(os.listdir(dumps))
    assert Path(config.model).stat().st_mode & 0o777 == 0o755
    (machine.root / "etc/camapp/config.toml").unlink()
    shutil.copy(SHIPPED / "lenet.npz", home / "fetched.npz")
    monkeypatch.setattr(module, "model_path", lambda name: home / "fetched.npz")
    machine.install(settings=Settings(model="fetched"))
    config = load_settings({}, machine.root / "etc/camapp/config.toml", environment={})
    assert config.model == str(machine.root / "etc/camapp/fetched.npz")


def test_the_weights_beside_an_onnx_model_are_copied_with_it(machine, tmp_path_factory):
    onnx = pytest.importorskip("onnx")
    home = tmp_path_factory.mktemp("home")
    weight = onnx.numpy_helper.from_array(np.arange(600, dtype=np.float32), "w")
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [600])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], [weight]))
    onnx.save(model, home / "net.onnx", save_as_external_data=True, location="other.bin")
    machine.install(settings=Settings(model=str(home / "net.onnx")))
    assert {"net.onnx", "other.bin"} <= set(os.listdir(machine.root / "etc/camapp"))


def test_a_dry_run_names_all_that_would_prevent_a_start(machine, real_check):
    wrong = Settings(source="/srv/absent.mp4", model="absent.npz", record=Path("film.gif"), log="/srv/log.jsonl")
    before = machine.files()
    with pytest.raises(CamappError) as caught:
        machine.install(settings=wrong, dry_run=True)
    assert caught.value.code is ExitCode.CONFIG
    would_fail = [line for line in machine.reported if line.startswith("would fail")]
    for words in ("--log /srv/log.jsonl", "absent.npz", "/srv/absent.mp4", "film.gif"):
        assert any(words in line for line in would_fail), words
    assert machine.files() == before


def test_an_absent_camera_is_waited_for(machine, real_check):
    machine.commands.codes["check-config"] = ExitCode.SOURCE_GONE
    machine.install(settings=Settings(source="v4l2://97"))
    assert any("the service will wait for it" in line for line in machine.reported)
    assert machine.commands.has("systemctl restart")


def test_a_broken_config_names_all_its_faults(machine):
    (machine.root / "etc/camapp").mkdir()
    (machine.root / "etc/camapp/config.toml").write_text("fpss = 3\nfps = -1\n")
    with pytest.raises(SettingsError):
        machine.install(dry_run=True)
    assert sum(line.startswith("would fail") for line in machine.reported) == 2


def test_on_a_pi_the_environment_includes_apts_packages(machine):
    (machine.root / "proc/device-tree").mkdir(parents=True)
    (machine.root / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B\0")
    machine.install()
    assert machine.commands.has("venv --system-site-packages")


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda machine, patch: patch.setattr(module.os, "geteuid", lambda: 1000), "needs root"),
        (lambda machine, patch: patch.setattr(module.shutil, "which", lambda name, path=None: None), "no systemd"),
        (lambda machine, patch: (machine.root / "opt/camapp/.git").mkdir(parents=True), "no camapp environment"),
        (lambda machine, patch: patch.setattr(module, "PROJECT", machine.root), "from a clone"),
    ],
)
def test_obstacles_are_reported_before_anything_changes(machine, monkeypatch, prepare, reason):
    prepare(machine, monkeypatch)
    before = machine.files()
    with pytest.raises(InstallError, match=reason):
        machine.install()
    assert machine.files() == before
    assert machine.commands.done == []


def test_a_broken_config_is_refused_before_anything_changes(machine):
    (machine.root / "etc/camapp").mkdir()
    (machine.root / "etc/camapp/config.toml").write_text("fpss = 3")
    with pytest.raises(SettingsError, match="did you mean 'fps'"):
        machine.install()
    assert machine.commands.done == []


def test_a_config_that_other_users_can_write_is_reported(machine):
    machine.install()
    (machine.root / "etc/camapp/config.toml").chmod(0o666)
    machine.reported.clear()
    machine.install()
    assert any("chmod 644" in line for line in machine.reported)


@pytest.mark.parametrize(
    ("command", "output", "reason"),
    [
        ("pip install", "lines\nERROR: no network\nmore", "pip failed: ERROR: no network"),
        ("check-config", "camapp: no model 'x'", "no model 'x'"),
        ("verify", "camapp.service:3: Unknown key", "Unknown key"),
        ("restart", "Job failed", "journalctl -eu camapp.service"),
    ],
)
def test_a_failed_step_ends_the_installation_with_its_error(machine, command, output, reason):
    machine.commands.failing[command] = output
    with pytest.raises(InstallError, match=reason):
        machine.install()
    if command != "restart":
        assert not machine.commands.has("systemctl enable")


def test_the_unit_files_pass_systemds_own_checks(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    for name in ("camapp.service", "camapp-kiosk.service"):
        text = (ROOT / "systemd" / name).read_text().replace("/opt/camapp/bin/camapp", "/bin/true")
        (tmp_path / name).write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", tmp_path / "camapp.service"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
