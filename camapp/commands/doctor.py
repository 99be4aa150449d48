"""`camapp doctor`: what this machine has and lacks for a live run, each lack with the command that mends it."""

from __future__ import annotations

import grp
import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from camapp.core.status import HOT_C
from camapp.system.health import flags_of, read_temperature, read_throttled


class CheckStatus(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class CheckResult:
    """One line of the report.

    Attributes:
        name: what was looked at.
        verdict: ok, warn (works, but worse than it could) or fail (will not work).
        detail: what was found.
        remedy: what to do, a command where there is one; "" when all is well.
    """

    name: str
    verdict: CheckStatus
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> CheckResult:
    """All is well."""
    return CheckResult(name, CheckStatus.OK, detail)


def warn(name: str, detail: str, remedy: str) -> CheckResult:
    """It works, but worse than it could."""
    return CheckResult(name, CheckStatus.WARN, detail, remedy)


def fail(name: str, detail: str, remedy: str) -> CheckResult:
    """It will not work."""
    return CheckResult(name, CheckStatus.FAIL, detail, remedy)


def run_quietly(command: Sequence[str]) -> tuple[int, str]:
    """(exit status, last words) of a command, bounded to 20 s; 127 where there is none such."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    except FileNotFoundError:
        return 127, f"no program '{command[0]}'"
    except subprocess.TimeoutExpired:
        return 124, "no answer within 20 s"
    return done.returncode, done.stdout.strip()


class Machine:
    """Where the doctor looks: files under `root`, commands by `run`. Tests hand in recorded ones.

    Args:
        root: '/' but in tests.
        run: runs a command; its exit status and what it said.
    """

    def __init__(self, root: Path = Path("/"), run: Callable[[Sequence[str]], tuple[int, str]] = run_quietly) -> None:
        self.root = root
        self.run = run

    def read(self, path: str) -> str:
        """A small text file's content; "" where there is none."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return ""

    @cached_property
    def pi_model(self) -> str:
        """Such as 'Raspberry Pi 5 Model B Rev 1.0'; "" on anything else."""
        model = self.read("proc/device-tree/model")
        return model if "Raspberry" in model else ""

    def python(self, code: str) -> tuple[int, str]:
        """Run code in a process of its own, for imports that may crash or hang; its last line."""
        status, said = self.run([sys.executable, "-c", code])
        return status, said.splitlines()[-1] if said else ""


Check = Callable[[Machine], Iterator[CheckResult]]


def _machine(machine: Machine) -> Iterator[CheckResult]:
    yield ok("machine", machine.pi_model or f"{platform.machine()}, no Raspberry Pi")
    os_name = next(
        (
            line.partition("=")[2].strip('"')
            for line in machine.read("etc/os-release").splitlines()
            if line.startswith("PRETTY_NAME=")
        ),
        "unknown",
    )
    if sys.maxsize > 2**32:
        yield ok("system", f"{os_name}, {platform.release()}, 64-bit")
    else:
        yield fail("system", f"{os_name}, 32-bit", "install the 64-bit Raspberry Pi OS: https://rptl.io/imager")


def _python(machine: Machine) -> Iterator[CheckResult]:
    yield ok("python", f"{platform.python_version()}, {sys.executable}")  # an older one could not have come this far
    import numpy as np
    from threadpoolctl import threadpool_info

    yield ok("numpy", f"{np.__version__}, {Path(np.__file__).parent}")
    libraries = [library for library in threadpool_info() if library.get("user_api") == "blas"]
    if libraries:
        library = libraries[0]
        detail = f"{library['internal_api']} {library.get('version')} ({library.get('architecture', 'unknown core')})"
        yield ok("blas", f"{detail}, {library['filepath']}")
    else:
        yield warn(
            "blas",
            "none that is fast: NumPy multiplies matrices many times slower",
            "sudo apt install -y libopenblas0-pthread",
        )


def _opencv(machine: Machine) -> Iterator[CheckResult]:
    status, said = machine.python("import cv2; print(cv2.__version__, cv2.__file__)")
    if status == 0:
        version, _, file = said.partition(" ")
        yield ok("opencv", f"{version}, {Path(file).parent}")
    elif "libGL" in said:
        yield fail("opencv", said, "sudo apt install -y libgl1")
    elif "numpy" in said.lower():
        yield fail("opencv", said, "its NumPy is another: rm -rf .venv && make run")
    else:
        yield fail("opencv", said, f"{sys.executable} -m pip install 'opencv-python>=4.6'")


def _picamera2(machine: Machine) -> Iterator[CheckResult]:
    for module in ("simplejpeg", "libcamera", "picamera2"):
        status, said = machine.python(f"import {module}; print(getattr({module}, '__file__', ''))")
        if status == 0:
            yield ok(module, said)
        elif "dtype size changed" in said:
            yield fail(module, f"built for another NumPy than the one imported ({said})", "rm -rf .venv && make run")
        elif not machine.pi_model:
            yield ok(module, "not here, and not needed: only a Pi's own camera goes by it")
        elif module == "simplejpeg":
            yield warn(module, said, "sudo apt install -y python3-picamera2 --no-install-recommends")
        else:
            yield fail(
                module,
                said,
                "sudo apt install -y python3-picamera2 --no-install-recommends, then rm -rf .venv && make run",
            )


def _cameras(machine: Machine) -> Iterator[CheckResult]:
    # In a process of its own: libcamera may hang, and leaves threads behind.
    status, said = machine.run([sys.executable, "-m", "camapp", "sources", "--json"])
    try:
        sources = json.loads(said[said.index("[") :]) if status == 0 else []
    except ValueError:
        status, sources = 1, []
    if status:
        last = said.splitlines()[-1] if said else f"exit status {status}"
        yield fail("cameras", last, "run 'camapp sources --debug' and see what it says")
        return
    found = [source for source in sources if not source["uri"].startswith("pattern://")]
    for source in found:
        name = f"camera {source['uri']}"
        if source["status"] == "ready":
            yield ok(name, source["name"])
        else:
            yield warn(name, source["name"], source["status"])
    if not any(source["status"] == "ready" for source in found):
        remedy = "plug in a webcam, or try 'camapp run --source pattern://digits'"
        if machine.pi_model:
            remedy = "power off, reseat the ribbon cable, then 'rpicam-hello --list-cameras'; or plug in a webcam"
        yield warn("cameras", "none is ready", remedy)


def _devices(machine: Machine) -> Iterator[CheckResult]:
    for what, pattern in (
        ("video nodes", "video*"),
        ("media nodes", "media*"),
        ("dma_heap", "dma_heap/*"),
        ("screens and GPUs", "dri/*[0-9]"),
    ):
        nodes = sorted((machine.root / "dev").glob(pattern))
        closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
        if closed:
            owner = _group_of(closed[0])
            yield fail(
                what,
                f"this user may not open {', '.join(map(str, closed))}",
                f"sudo usermod -aG {owner} $USER, and log in again",
            )
        elif nodes:
            yield ok(what, f"{len(nodes)}, all can be opened")
        elif pattern == "dma_heap/*" and machine.pi_model:
            yield fail(what, "there is no /dev/dma_heap", "sudo apt full-upgrade && sudo reboot (an old kernel)")
        else:
            yield ok(what, "none")


def _group_of(node: Path) -> str:
    number = node.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _groups(machine: Machine) -> Iterator[CheckResult]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    names = sorted(group.gr_name for group in grp.getgrall() if group.gr_gid in {os.getegid(), *os.getgroups()})
    missing = [group for group in ("video", "render") if group not in names]
    if os.geteuid() == 0 or not missing or not machine.pi_model:
        yield ok("groups", f"{user}: {', '.join(names)}")
    else:
        yield warn(
            "groups",
            f"{user} is not in {', '.join(missing)}",
            f"sudo usermod -aG {','.join(missing)} {user}, and log in again",
        )


def _memory(machine: Machine) -> Iterator[CheckResult]:
    memory = {
        line.partition(":")[0]: int(line.split()[1]) // 1024
        for line in machine.read("proc/meminfo").splitlines()
        if len(line.split()) > 1
    }
    free = memory.get("MemAvailable", 0)
    detail = f"{free} MB available of {memory.get('MemTotal', 0)}"
    if free < 150:
        yield warn("memory", detail, "close other programs; --workers 1 needs least")
    else:
        yield ok("memory", detail)
    if "CmaTotal" in memory:
        detail = f"{memory['CmaFree']} MB free of {memory['CmaTotal']}"
        if machine.pi_model and memory["CmaFree"] < 32:
            yield warn(
                "cma",
                f"{detail}: the camera's buffers come from it",
                "lower --size, stop other camera programs, or 'dtoverlay=vc4-kms-v3d,cma-256' in config.txt",
            )
        else:
            yield ok("cma", detail)


def _power(machine: Machine) -> Iterator[CheckResult]:
    value = read_throttled(machine.root)
    if value is None:
        if machine.pi_model:
            yield warn("power", "the firmware's throttle flags cannot be read", "sudo usermod -aG video $USER")
    else:
        now, since = flags_of(value)
        cool = "a fan or a heat sink"
        supply = "the official power supply and a short cable"
        if now or since:
            remedy = supply if "under-voltage" in {*now, *since} else cool
            yield warn("power", f"now: {', '.join(now) or 'well'}; since boot: {', '.join(since)}", f"use {remedy}")
        else:
            yield ok("power", "no under-voltage, no throttling since boot")
    degrees = read_temperature(machine.root)
    if degrees is not None:
        if degrees >= HOT_C:
            yield warn("temperature", f"{degrees:.0f} C: the clock is lowered from {HOT_C:.0f} C on", "add a fan")
        else:
            yield ok("temperature", f"{degrees:.0f} C")


def _disk(machine: Machine) -> Iterator[CheckResult]:
    shared = machine.root / "dev/shm"
    for name, path in (("disk", Path.cwd()), ("log's disk", machine.root / "var/log"), ("/dev/shm", shared)):
        if not path.is_dir():
            continue
        usage = shutil.disk_usage(path)
        detail = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} at {path}"
        if path != shared and (usage.free < 200e6 or usage.free < usage.total / 50):
            yield warn(name, detail, f"make room: sudo apt clean; sudo du -xh {path} | sort -h | tail")
        else:
            yield ok(name, detail)  # /dev/shm is told for others: camapp's shared memory has no name there


def _display(machine: Machine) -> Iterator[CheckResult]:
    from camapp.system import displays

    desktop = displays.probe()
    kiosk = displays.probe_kiosk(machine.root)
    console = displays.probe_drm(machine.root)
    if desktop:
        yield ok("display", f"a desktop's, {desktop.reason}")
    elif console and machine.pi_model:
        yield ok("display", f"{console.reason}, for --display drm" + (" or kiosk" if kiosk else ""))
    elif kiosk:
        yield ok("display", f"{kiosk.reason}, for --display kiosk")
    else:
        # With a screen that somebody else has, perhaps our own service, that is what there is to say.
        screen = any(displays.connectors(machine.root).values())
        reason = desktop.reason if not screen else console.reason if machine.pi_model else kiosk.reason
        yield ok("display", f"{reason}; predictions are printed or logged")


def _service(machine: Machine) -> Iterator[CheckResult]:
    from camapp.commands.install import ServiceKind

    installed = [kind.file for kind in ServiceKind if kind is not ServiceKind.DESKTOP]
    units = [unit for unit in installed if (machine.root / "etc/systemd/system" / unit).exists()]
    if not units:
        yield ok("service", "not installed ('sudo camapp install-service' starts it on boot)")
    for unit in units:
        properties = "ActiveState,SubState,NRestarts,UnitFileState,StatusText,ExecMainStatus"
        status, said = machine.run(["systemctl", "show", unit, f"--property={properties}"])
        values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        state = values.get("ActiveState", "unknown")
        detail = f"{unit} is {state}, {values.get('UnitFileState', '')}, restarts {values.get('NRestarts', '?')}"
        if values.get("StatusText"):
            detail += f"; {values['StatusText']}"
        if status or not values:
            yield warn("service", f"{unit}: systemd does not answer", f"systemctl status {unit}")
        elif state != "active":
            code = values.get("ExecMainStatus", "")
            remedy = "camapp check-config /etc/camapp/config.toml" if code == "78" else f"journalctl -eu {unit}"
            yield fail("service", f"{detail}, last exit status {code}", remedy)
        else:
            yield ok("service", detail)


def _clock(machine: Machine) -> Iterator[CheckResult]:
    status, said = machine.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if (machine.root / "run/systemd/timesync/synchronized").exists() or said == "yes":
        yield ok("clock", "synchronised")
    elif status:
        yield ok("clock", "nobody here tells whether it is synchronised; records also carry monotonic time")
    else:
        yield warn(
            "clock",
            "not synchronised: the times in the log may be wrong (a Pi has no clock of its own)",
            "sudo timedatectl set-ntp true",
        )


def _models(machine: Machine) -> Iterator[CheckResult]:
    from camapp.core.models import shipped_models
    from engine.model import ModelError

    try:
        yield ok("models", ", ".join(path.stem for path, _ in shipped_models()))
    except ModelError as error:
        yield fail("models", str(error), "install again: git checkout weights, or install-service")


CHECKS: tuple[Check, ...] = (
    _machine, _python, _opencv, _picamera2, _cameras, _devices, _groups, _memory, _power, _disk, _display, _service,
    _clock, _models,
)  # fmt: skip


def examine(machine: Machine | None = None, checks: Sequence[Check] = CHECKS) -> list[CheckResult]:
    """Every check's findings; one that fails unexpectedly is a finding too, so that the others are still heard."""
    machine = machine or Machine()
    findings: list[CheckResult] = []
    for check in checks:
        try:
            findings += check(machine)
        except Exception as error:  # noqa: BLE001 - a report with a hole is better than none
            name = check.__name__.strip("_")
            findings.append(warn(name, f"could not be looked at: {type(error).__name__}: {error}", "report this"))
    return findings


def print_report(findings: Sequence[CheckResult], as_json: bool) -> None:
    """As a table with colours on a terminal, or as JSON."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    colours = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "bold red"}
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.verdict.value:<5}", colours[finding.verdict])
        line.append(f"{finding.name:<{width}}  ", "bold").append(finding.detail, "default")
        console.print(line)
        if finding.remedy:
            console.print(Text(f"     {'':<{width}}  -> {finding.remedy}", "cyan"))
