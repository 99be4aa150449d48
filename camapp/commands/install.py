"""`camapp install-service` and `uninstall-service` start camapp at boot, and restore the machine.

The application goes into a virtual environment in /opt/camapp, where the user of a service can run it (home folders
are closed to services), its settings into /etc/camapp/config.toml, and its unit into /etc/systemd/system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import partial
from pathlib import Path

from camapp.app import check
from camapp.capture.source import local_path
from camapp.core.errors import CamappError, ExitCode, SettingsError, SourceLost
from camapp.core.models import SHIPPED, model_path
from camapp.core.settings import Settings, load_cameras, to_toml
from camapp.sinks.rotating_file import is_plain_file
from engine.formats.external_data import names_in

PROJECT = Path(__file__).parents[2]
UNITS = Path(__file__).parents[1] / "data" / "systemd"
# The parts of a clone that pip needs; the units are data of camapp.
_PARTS = ("camapp", "engine", "weights", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
# Settings that need further packages: the extras of the same names.
_EXTRAS = ("mqtt", "web")
_PREDICTIONS = "/var/log/camapp/predictions.jsonl"
# The folders that the units let the service write to, and those that they close to it.
_WRITABLE = ("/var/lib/camapp", "/var/log/camapp", "/var/cache/camapp")
_CLOSED = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
_USER = "camapp"


class ServiceKind(Enum):
    """Names a way to start the application."""

    HEADLESS = "headless"
    KIOSK = "kiosk"
    DESKTOP = "desktop"

    @property
    def file(self) -> str:
        """Name of the unit or autostart file."""
        return {"headless": "camapp.service", "kiosk": "camapp-kiosk.service", "desktop": "camapp.desktop"}[self.value]


class InstallError(CamappError):
    """Installing cannot continue; the message says what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.INTERNAL) -> None:
        super().__init__(message)
        self.code = code


Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command for at most ten minutes, and capture its output."""
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)


@dataclass(frozen=True)
class Step:
    """Holds one step: its description, and a function that does it."""

    text: str
    run: Callable[[], object]


class Installer:
    """Makes the steps of installing and of removing.

    Args:
        settings: for a new configuration; an existing one is kept.
        root: folder of all files of the machine, '/' except in tests.
    """

    def __init__(
        self,
        kind: ServiceKind = ServiceKind.HEADLESS,
        settings: Settings | None = None,
        root: Path = Path("/"),
        run: Run = run_command,
    ) -> None:
        self.kind = kind
        self.settings = settings or Settings()
        self._root = root
        self._run = run
        self.app = root / "opt/camapp"
        self.config = root / "etc/camapp/config.toml"

    @property
    def _uses_drm(self) -> bool:
        """Whether a Pi camera draws on the screen itself (`--display drm`), so that no window system is needed."""
        return self.kind is ServiceKind.KIOSK and self.settings.display == "drm"

    def path_of(self, kind: ServiceKind) -> Path:
        """Return where the unit or the autostart file of a kind belongs."""
        return self._root / ("etc/xdg/autostart" if kind is ServiceKind.DESKTOP else "etc/systemd/system") / kind.file

    # -- checks, before anything is changed

    def check(self) -> tuple[list[str], list[CamappError]]:
        """Return notes for the user, and all reasons why the service cannot be installed or would not start."""
        notes: list[str] = []
        faults = self._machine_faults()
        try:
            cameras = self._cameras()
        except SettingsError as error:
            return notes, [*faults, *(SettingsError(part) for part in error.parts)]
        if self.config.exists():
            notes.append(f"{self.config} is kept as it is")
            if self.config.stat().st_uid != 0 or self.config.stat().st_mode & 0o022:
                notes.append(
                    f"other users than root can write {self.config}, and so choose what the service runs: "
                    f"sudo chown root:root {self.config} && sudo chmod 644 {self.config}"
                )
        for camera in cameras:
            if self.kind is not ServiceKind.DESKTOP:
                faults += _closed_paths(camera)
            notes += self._device_notes(camera.source)
        # systemd creates the folders of the outputs; a user's desktop has other rights than root.
        for fault in check(cameras, outputs=False).faults:
            if isinstance(fault, SourceLost):
                notes.append(f"{fault}; the service will wait for it")
            elif isinstance(fault, CamappError):
                faults.append(fault)
            else:
                faults.append(InstallError(str(fault), ExitCode.CONFIG))
        missing = [group for group in self._wanted_groups() if not self._has_group(group)]
        if missing:
            notes.append(f"this machine has no group {', '.join(missing)}: left out of the unit")
        return notes, faults

    def _machine_faults(self) -> list[CamappError]:
        faults: list[CamappError] = []
        if os.geteuid() != 0:
            why = "installing a service needs root: put 'sudo' before the command (with the full path of python)"
            faults.append(InstallError(why, ExitCode.DENIED))
        if self.kind is not ServiceKind.DESKTOP and not shutil.which("systemctl"):
            why = "this machine has no systemd (no systemctl): start 'camapp run' with its own service manager"
            faults.append(InstallError(why))
        if self.kind is ServiceKind.KIOSK and not self._uses_drm:
            for program, package in (("cage", "cage"), ("Xwayland", "xwayland")):
                if not shutil.which(program):
                    why = (
                        f"the kiosk needs {program}: sudo apt install -y {package} (or --display drm, for a Pi camera)"
                    )
                    faults.append(InstallError(why))
        if not self._is_installed_copy():
            if not (PROJECT / "pyproject.toml").is_file():
                why = "run install-service from a clone of the project: this installation has no pyproject.toml"
                faults.append(InstallError(why))
            if not (self.app / "bin/python").exists():
                try:
                    _system_python()
                except InstallError as error:
                    faults.append(error)
        if self.app.exists() and not (self.app / "pyvenv.cfg").is_file():
            why = f"{self.app} exists and is no camapp environment: move it first (a clone belongs elsewhere)"
            faults.append(InstallError(why))
        return faults

    def _cameras(self) -> list[Settings]:
        """Return the settings that will run: the existing configuration, else the given one. Raises SettingsError."""
        return load_cameras({}, self.config, environment={}) if self.config.exists() else [self.settings]

    def _device_notes(self, source: str) -> list[str]:
        """Return notes about devices that this source needs and the machine lacks now; the service waits for them."""
        scheme = source.partition("://")[0]
        dev = self._root / "dev"
        if scheme == "picamera" and not list(dev.glob("media*")):
            return [f"no {dev}/media*: is the camera's ribbon cable in place? The service will look for it again"]
        if scheme == "v4l2" and not list(dev.glob("video*")):
            return [f"no {dev}/video*: plug the webcam in; the service will look for it again"]
        return []

    # -- installing

    def steps(self) -> list[Step]:
        """Return the steps of installing, in order."""
        steps = []
        if not self._is_installed_copy():
            steps.append(Step(f"put the application into {self.app}", self._install_application))
        if not self.config.exists():
            steps.append(Step(f"write {self.config}", self._write_config))
        steps.append(Step(f"check {self.config} and its model with the installed application", self._check_config))
        for other in ServiceKind:
            if other is not self.kind and self.path_of(other).exists():
                steps.append(Step(f"remove {self.path_of(other)}", partial(self._remove_unit, other)))
        if self.kind is ServiceKind.KIOSK and not self._has_user():
            steps.append(Step(f"create the system user '{_USER}'", self._add_user))
        steps.append(Step(f"write {self.path_of(self.kind)}", self._write_unit))
        if self.kind is not ServiceKind.DESKTOP:
            steps.append(Step(f"systemd-analyze verify {self.kind.file}", self._verify))
            if self._systemd_runs():
                steps.append(Step(f"enable {self.kind.file} and start it", self._start))
            else:
                steps.append(Step(f"enable {self.kind.file}; it starts with the next boot", self._enable))
        return steps

    def _install_application(self) -> None:
        if not (self.app / "bin/python").exists():
            # On a Pi, picamera2 and the NumPy that it was built for come from apt.
            options = ["--system-site-packages"] if self._is_pi() else []
            self._run_checked([_system_python(), "-I", "-m", "venv", *options, str(self.app)], "python3 -m venv")
        # From a copy, since pip would leave a build folder of root in the user's clone.
        with tempfile.TemporaryDirectory() as folder:
            for part in (PROJECT / name for name in _PARTS):
                if part.is_dir():
                    shutil.copytree(part, Path(folder, part.name), ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy2(part, folder)
            # -I: root must not import modules from the current folder.
            pip = [str(self.app / "bin/python"), "-I", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
            extras = ",".join(name for name in _EXTRAS if getattr(self._cameras()[0], name) is not None)
            self._run_checked([*pip, f"{folder}[{extras}]" if extras else folder], "pip")

    def _write_config(self) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        settings = self.settings
        if self.kind is not ServiceKind.DESKTOP and settings.log is None:
            # A log of every prediction grows by 1 GB a day, and the SD card has to last for years.
            settings = replace(settings, log=_PREDICTIONS, log_on_change=True)
        if (model := model_path(settings.model)).parent != SHIPPED:
            settings = replace(settings, model=self._copied(model))
        if settings.labels and Path(settings.labels).expanduser().exists():
            settings = replace(settings, labels=self._copied(Path(settings.labels).expanduser()))
        text = f"# Settings of the camapp service. After a change: sudo systemctl reload {self.kind.file}\n"
        temporary = self.config.with_suffix(".partial")
        temporary.write_text(text + to_toml(settings), encoding="utf-8")
        if self.kind is not ServiceKind.DESKTOP and _has_password(settings) and self._has_group("video"):
            # The service is in that group.
            temporary.chmod(0o640)
            self._run_checked(["chgrp", "video", str(temporary)], "chgrp")
        else:
            temporary.chmod(0o644)
        temporary.replace(self.config)

    def _copied(self, source: Path) -> str:
        """Copy a file or a folder of the user to where the service can read it; return the new path."""
        target = self.config.parent / source.name
        try:
            for file in _files_of(source):
                copy = target / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                copy.chmod(0o644)
            for file in _companions(source):
                shutil.copyfile(file, self.config.parent / file.name)
                (self.config.parent / file.name).chmod(0o644)
        except OSError as error:
            raise InstallError(f"cannot copy '{source}' into {self.config.parent}: {error}", ExitCode.CONFIG) from error
        return str(target)

    def _check_config(self) -> None:
        done = self._run([str(self.app / "bin/camapp"), "check-config", str(self.config)])
        # The service waits for a camera that is absent now.
        if done.returncode not in (ExitCode.OK, ExitCode.SOURCE_GONE):
            raise InstallError(_last_line(done.stdout).removeprefix("camapp: "), ExitCode.CONFIG)

    def _add_user(self) -> None:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/var/lib/camapp"]
        self._run_checked(["useradd", *options, _USER], "useradd")

    def unit(self) -> str:
        """Return the text of the unit or autostart file, as this machine needs it."""
        text = (UNITS / self.kind.file).read_text(encoding="utf-8")
        # systemd does not start a unit with a group that does not exist.
        wanted = self._wanted_groups()
        groups = " ".join(group for group in wanted if self._has_group(group))
        text = text.replace(f"SupplementaryGroups={' '.join(wanted)}", f"SupplementaryGroups={groups}")
        return text.replace("--display kiosk", "--display drm") if self._uses_drm else text

    def _write_unit(self) -> None:
        path = self.path_of(self.kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.unit(), encoding="utf-8")
        path.chmod(0o644)

    def _verify(self) -> None:
        if shutil.which("systemd-analyze"):
            self._run_checked(["systemd-analyze", "verify", str(self.path_of(self.kind))], "systemd-analyze verify")

    def _enable(self) -> None:
        self._run_checked(["systemctl", "enable", "--quiet", self.kind.file], "systemctl enable")

    def _start(self) -> None:
        self._run_checked(["systemctl", "daemon-reload"], "systemctl daemon-reload")
        self._enable()
        done = self._run(["systemctl", "restart", self.kind.file])
        if done.returncode:
            raise InstallError(f"{self.kind.file} does not start: see 'journalctl -eu {self.kind.file}'")

    # -- removing

    def removal(self, keep_data: bool = False) -> list[Step]:
        """Return the steps of removing the parts that are installed, in order."""
        steps = [
            Step(f"stop, disable and remove {self.path_of(kind)}", partial(self._remove_unit, kind))
            for kind in ServiceKind
            if self.path_of(kind).exists()
        ]
        folders = [] if keep_data else ["etc/camapp", "var/log/camapp", "var/lib/camapp"]
        folders += ["var/cache/camapp"]
        # systemd keeps the folders of a dynamic user in `private`, and links to them.
        for name in folders:
            parent, _, leaf = name.rpartition("/")
            for path in (self._root / name, self._root / parent / "private" / leaf):
                if path.exists() or path.is_symlink():
                    steps.append(Step(f"delete {path}", partial(_delete, path)))
        if self._has_user():
            steps.append(
                Step(f"remove the system user '{_USER}'", partial(self._run_checked, ["userdel", _USER], "userdel"))
            )
        if (self.app / "pyvenv.cfg").is_file():
            steps.append(Step(f"delete {self.app}", partial(_delete, self.app)))
        return steps

    def _remove_unit(self, kind: ServiceKind) -> None:
        if kind is not ServiceKind.DESKTOP:
            self._run(["systemctl", "disable", *(["--now"] if self._systemd_runs() else []), kind.file])
        self.path_of(kind).unlink()
        if kind is not ServiceKind.DESKTOP and self._systemd_runs():
            self._run(["systemctl", "daemon-reload"])
            self._run(["systemctl", "reset-failed", kind.file])

    # -- the machine

    def _run_checked(self, command: Sequence[str], name: str) -> None:
        done = self._run(command)
        if done.returncode:
            raise InstallError(f"{name} failed: {_last_line(done.stdout) or f'exit status {done.returncode}'}")

    def _is_installed_copy(self) -> bool:
        return PROJECT.is_relative_to(self.app)

    def _is_pi(self) -> bool:
        model = self._root / "proc/device-tree/model"
        return model.exists() and "Raspberry" in model.read_text(errors="replace")

    def _systemd_runs(self) -> bool:
        return (self._root / "run/systemd/system").is_dir()

    def _wanted_groups(self) -> list[str]:
        if self.kind is ServiceKind.DESKTOP:
            return []
        lines = (UNITS / self.kind.file).read_text(encoding="utf-8").splitlines()
        return next(line.partition("=")[2].split() for line in lines if line.startswith("SupplementaryGroups="))

    def _has_group(self, name: str) -> bool:
        return bool(_named(self._root / "etc/group", name))

    def _has_user(self) -> bool:
        """Whether the system user exists; a user of that name with another home folder is a person."""
        return any(line.split(":")[5:6] == ["/var/lib/camapp"] for line in _named(self._root / "etc/passwd", _USER))


def _named(table: Path, name: str) -> list[str]:
    lines = table.read_text().splitlines() if table.exists() else []
    return [line for line in lines if line.startswith(f"{name}:")]


def _has_password(settings: Settings) -> bool:
    values = (getattr(settings, item.name) for item in fields(settings))
    return any(isinstance(value, str) and "://" in value and "@" in value for value in values)


def _files_of(source: Path) -> list[Path]:
    """Return a file itself, or the plain files of a folder."""
    if not source.is_dir():
        return [source]
    return [path for path in sorted(source.rglob("*")) if path.is_file()]


def _companions(source: Path) -> list[Path]:
    """Return the files beside an ONNX model that hold its weights."""
    if source.suffix.lower() != ".onnx":
        return []
    names = sorted(names_in(source.read_bytes()))
    return [path for name in names if (path := source.with_name(name)).is_file()]


def _closed_paths(settings: Settings) -> list[CamappError]:
    """Return errors for paths closed to the service: relative inputs, home folders, outputs outside its folders."""
    faults: list[CamappError] = []
    source = settings.source
    scheme, sep, _ = source.partition("://")
    inputs: dict[str, Path | None] = {
        "mqtt-ca": settings.mqtt_ca,
        "mqtt-password-file": settings.mqtt_password_file,
    }
    if source != "auto" and (not sep or scheme in ("file", "images", "video")):
        inputs["source"] = local_path(source)
    for name, file in inputs.items():
        if file is not None and (not file.expanduser().is_absolute() or _is_below(file.expanduser(), _CLOSED)):
            why = "the service cannot see it there; move it, to /srv for example, and give its full path"
            faults.append(InstallError(f"--{name} {file}: {why}", ExitCode.CONFIG))
    outputs = {"record": settings.record, "clips": settings.clips, "snapshots": settings.snapshots}
    if settings.log is not None and is_plain_file(settings.log):
        outputs["log"] = Path(settings.log)
    for name, output in outputs.items():
        if output is not None and output.expanduser().is_absolute() and not _is_below(output.expanduser(), _WRITABLE):
            why = (
                f"the service may write below {' and '.join(_WRITABLE[:2])} only (a relative path starts in the first)"
            )
            faults.append(InstallError(f"--{name} {output}: {why}", ExitCode.CONFIG))
    return faults


def _is_below(path: Path, folders: Sequence[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _system_python() -> str:
    """Return the system's Python: one in a home folder would be closed to the service."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    if python is None:
        raise InstallError("no python3 in /usr/bin: sudo apt install -y python3-venv")
    return python


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "camapp:"))]
    return (errors or lines or [""])[-1]


def _delete(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def install(installer: Installer, dry_run: bool, report: Callable[[str], None] = print) -> None:
    """Check the machine, then do the steps, or only print them.

    Raises:
        CamappError: the first reason why the service cannot be installed, or a step failed; no later step was done.
    """
    notes, faults = installer.check()
    for note in notes:
        report(f"note: {note}")
    for fault in faults if dry_run else faults[1:]:
        report(f"{'would fail' if dry_run else 'also'}: {fault}")
    if faults and not dry_run:
        raise faults[0]
    # If root has a strict umask, the user of the service must still be able to read what is installed.
    umask = os.umask(0o022)
    try:
        _do(installer.steps(), dry_run, report)
    finally:
        os.umask(umask)
    # Only a lack of rights is no reason to doubt the rest.
    if serious := [fault for fault in faults if fault.code is not ExitCode.DENIED]:
        raise serious[0]
    if not dry_run and installer.kind is not ServiceKind.DESKTOP:
        report(f"done. Follow its log: journalctl -fu {installer.kind.file}; after a change of {installer.config}:")
        report(f"sudo systemctl reload {installer.kind.file} (or restart, if the log says so)")


def uninstall(installer: Installer, dry_run: bool, keep_data: bool, report: Callable[[str], None] = print) -> None:
    """Remove the files that `install` made, and those that the service wrote."""
    if os.geteuid() != 0 and not dry_run:
        raise InstallError("removing a service needs root: put 'sudo' before the command", ExitCode.DENIED)
    steps = installer.removal(keep_data)
    if not steps:
        report("nothing is installed")
    _do(steps, dry_run, report)


def _do(steps: list[Step], dry_run: bool, report: Callable[[str], None]) -> None:
    for step in steps:
        report(f"{'would ' if dry_run else ''}{step.text}")
        if not dry_run:
            step.run()
