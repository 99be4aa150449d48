"""`camapp doctor` checks what a live run needs of this machine, and prints a remedy for each fault."""

from __future__ import annotations

import grp
import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path

from camapp.core.program import spelled
from camapp.core.settings import Settings
from camapp.core.status import HOT_C
from camapp.system.health import flags_of, read_temperature, read_throttled


class CheckStatus(StrEnum):
    """Rates a check: ok, warn (works, but worse than it could) or fail (does not work)."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class CheckResult:
    """Holds one line of the report.

    Attributes:
        remedy: what to do, a command if there is one; "" if there is nothing to do.
    """

    name: str
    detail: str
    remedy: str = ""
    status: CheckStatus = CheckStatus.OK

    def as_dict(self) -> dict[str, str]:
        """Return the record for JSON, in which the status has the key "verdict"."""
        return {"name": self.name, "verdict": self.status.value, "detail": self.detail, "remedy": self.remedy}


ok = CheckResult
warn = partial(CheckResult, status=CheckStatus.WARN)
fail = partial(CheckResult, status=CheckStatus.FAIL)


def warn_if(fault: bool, name: str, detail: str, remedy: str) -> CheckResult:
    """Return a warning with its remedy if there is a fault, else an ok."""
    return warn(name, detail, remedy) if fault else ok(name, detail)


def run_quietly(command: Sequence[str]) -> tuple[int, str]:
    """Run a command for at most 20 s; return its exit status (127 if there is no such program) and its output."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    except FileNotFoundError:
        return 127, f"no program '{command[0]}'"
    except subprocess.TimeoutExpired:
        return 124, "no answer within 20 s"
    return done.returncode, done.stdout.strip()


class Machine:
    """Gives the checks access to a machine's files and commands; tests pass recorded ones.

    Args:
        root: folder of all files, '/' except in tests.
    """

    def __init__(self, root: Path = Path("/"), run: Callable[[Sequence[str]], tuple[int, str]] = run_quietly) -> None:
        self.root = root
        self.run = run

    def read(self, path: str) -> str:
        """Return the content of a small text file; "" if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return ""

    @cached_property
    def pi_model(self) -> str:
        """Name of the board, such as 'Raspberry Pi 5 Model B Rev 1.0'; "" on any other machine."""
        model = self.read("proc/device-tree/model")
        return model if "Raspberry" in model else ""

    def python(self, code: str) -> tuple[int, str]:
        """Run code in a separate process, since an import may crash or hang; return exit status and last line."""
        status, output = self.run([sys.executable, "-c", code])
        return status, output.splitlines()[-1] if output else ""


Check = Callable[[Machine], Iterator[CheckResult]]


def _machine(machine: Machine) -> Iterator[CheckResult]:
    yield ok("machine", machine.pi_model or f"{platform.machine()}, no Raspberry Pi")
    release = dict(line.split("=", 1) for line in machine.read("etc/os-release").splitlines() if "=" in line)
    os_name = release.get("PRETTY_NAME", "unknown").strip('"')
    if sys.maxsize > 2**32:
        yield ok("system", f"{os_name}, {platform.release()}, 64-bit")
    else:
        yield fail("system", f"{os_name}, 32-bit", "install the 64-bit Raspberry Pi OS: https://rptl.io/imager")


def _python(machine: Machine) -> Iterator[CheckResult]:
    yield ok("python", f"{platform.python_version()}, {sys.executable}")  # an older one cannot import this module
    import numpy as np

    from engine.kernels import blas

    yield ok("numpy", f"{np.__version__}, {Path(np.__file__).parent}")
    library = blas.describe()
    detail = f"{library}, {library.path or 'unknown file'}"
    if library.warning:
        detail = f"{detail}: NumPy multiplies matrices many times slower than with OpenBLAS"
    yield warn_if(bool(library.warning), "blas", detail, "sudo apt install -y libopenblas0-pthread")
    error = blas.product_error(128)
    if error > blas.MAX_ERROR:
        yield fail("matrix products", blas.wrong_products(error), f"{sys.executable} -m pip install -U numpy")
    else:
        yield ok("matrix products", f"right to {error:.0e} of their size, compared with float64")


def _opencv(machine: Machine) -> Iterator[CheckResult]:
    status, output = machine.python("import cv2; print(cv2.__version__, cv2.__file__)")
    if status == 0:
        version, _, file = output.partition(" ")
        yield ok("opencv", f"{version}, {Path(file).parent}")
    elif "libGL" in output:
        yield fail("opencv", output, "sudo apt install -y libgl1")
    elif "numpy" in output.lower():
        yield fail("opencv", output, "built for another NumPy: rm -rf .venv && make run")
    else:
        yield fail("opencv", output, f"{sys.executable} -m pip install 'opencv-python>=4.6'")


def _picamera2(machine: Machine) -> Iterator[CheckResult]:
    install = "sudo apt install -y python3-picamera2 --no-install-recommends"
    for module in ("simplejpeg", "libcamera", "picamera2"):
        status, output = machine.python(f"import {module}; print(getattr({module}, '__file__', ''))")
        if status == 0:
            yield ok(module, output)
        elif "dtype size changed" in output:
            yield fail(module, f"built for another NumPy than the one imported ({output})", "rm -rf .venv && make run")
        elif not machine.pi_model:
            yield ok(module, "not installed, and not needed: only a Pi camera uses it")
        elif module == "simplejpeg":
            yield warn(module, output, install)
        else:
            yield fail(module, output, f"{install}, then rm -rf .venv && make run")


def _cameras(machine: Machine) -> Iterator[CheckResult]:
    # In a separate process, since libcamera may hang, and leaves threads behind.
    status, output = machine.run([sys.executable, "-m", "camapp", "sources", "--json"])
    try:
        sources = json.loads(output[output.index("[") :]) if status == 0 else []
    except ValueError:
        status, sources = 1, []
    if status:
        last = output.splitlines()[-1] if output else f"exit status {status}"
        yield fail("cameras", last, "run 'camapp run --debug' and read its log")
        return
    found = [source for source in sources if not source["uri"].startswith("pattern://")]
    for source in found:
        yield warn_if(source["status"] != "ready", f"camera {source['uri']}", source["name"], source["status"])
    if not any(source["status"] == "ready" for source in found):
        remedy = "plug in a webcam, or try 'camapp run --source pattern://digits'"
        if machine.pi_model:
            remedy = "power off, reseat the ribbon cable, then 'rpicam-hello --list-cameras'; or plug in a webcam"
        yield warn("cameras", "no camera is ready", remedy)


def _devices(machine: Machine) -> Iterator[CheckResult]:
    for name, pattern in (
        ("video nodes", "video*"),
        ("media nodes", "media*"),
        ("dma_heap", "dma_heap/*"),
        ("screens and GPUs", "dri/*[0-9]"),
    ):
        nodes = sorted((machine.root / "dev").glob(pattern))
        closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
        if closed:
            remedy = f"sudo usermod -aG {_group_of(closed[0])} $USER, and log in again"
            yield fail(name, f"this user cannot open {', '.join(map(str, closed))}", remedy)
        elif nodes:
            yield ok(name, f"{len(nodes)}, all can be opened")
        elif pattern == "dma_heap/*" and machine.pi_model:
            yield fail(name, "there is no /dev/dma_heap", "sudo apt full-upgrade && sudo reboot (the kernel is old)")
        else:
            yield ok(name, "none")


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
        remedy = f"sudo usermod -aG {','.join(missing)} {user}, and log in again"
        yield warn("groups", f"{user} is not in {', '.join(missing)}", remedy)


def _memory(machine: Machine) -> Iterator[CheckResult]:
    memory = {
        line.partition(":")[0]: int(line.split()[1]) // 1024
        for line in machine.read("proc/meminfo").splitlines()
        if len(line.split()) > 1
    }
    free = memory.get("MemAvailable", 0)
    detail = f"{free} MB available of {memory.get('MemTotal', 0)}"
    yield warn_if(free < 150, "memory", detail, "close other programs, or use --workers 1")
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
            yield warn("power", "the throttling flags of the firmware cannot be read", "sudo usermod -aG video $USER")
    else:
        now, since = flags_of(value)
        if now or since:
            supply, cooling = "use the official power supply and a short cable", "use a fan or a heat sink"
            remedy = supply if "under-voltage" in {*now, *since} else cooling
            yield warn("power", f"now: {', '.join(now) or 'ok'}; since boot: {', '.join(since)}", remedy)
        else:
            yield ok("power", "no under-voltage, no throttling since boot")
    degrees = read_temperature(machine.root)
    if degrees is not None:
        remedy = f"the firmware lowers the clock from {HOT_C:.0f} C on: add a fan"
        yield warn_if(degrees >= HOT_C, "temperature", f"{degrees:.0f} C", remedy)


def _disk(machine: Machine) -> Iterator[CheckResult]:
    shared = machine.root / "dev/shm"
    for name, path in (("disk", Path.cwd()), ("log's disk", machine.root / "var/log"), ("/dev/shm", shared)):
        if not path.is_dir():
            continue
        usage = shutil.disk_usage(path)
        detail = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} at {path}"
        # /dev/shm matters to other programs only: camapp's shared memory is anonymous.
        full = path != shared and (usage.free < 200e6 or usage.free < usage.total / 50)
        yield warn_if(full, name, detail, f"free some space: sudo apt clean; sudo du -xh {path} | sort -h | tail")


def _display(machine: Machine) -> Iterator[CheckResult]:
    from camapp.system import displays

    desktop = displays.probe()
    kiosk = displays.probe_kiosk(machine.root)
    console = displays.probe_drm(machine.root)
    if desktop:
        yield ok("display", f"desktop, {desktop.reason}")
    elif console and machine.pi_model:
        yield ok("display", f"{console.reason}, for --display drm" + (" or kiosk" if kiosk else ""))
    elif kiosk:
        yield ok("display", f"{kiosk.reason}, for --display kiosk")
    else:
        # A connected screen is in use by another program, possibly our own service: give that as the reason.
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
        status, output = machine.run(["systemctl", "show", unit, f"--property={properties}"])
        values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
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
    status, output = machine.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if (machine.root / "run/systemd/timesync/synchronized").exists() or output == "yes":
        yield ok("clock", "synchronised")
    elif status:
        yield ok("clock", "no service reports if it is synchronised; records also carry monotonic time")
    else:
        detail = "not synchronised: the times in the log may be wrong (a Pi has no battery-backed clock)"
        yield warn("clock", detail, "sudo timedatectl set-ntp true")


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
    """Run the checks on a machine and return their results."""
    machine = machine or Machine()
    return collect([(check.__name__.strip("_"), partial(check, machine)) for check in checks], CheckStatus.WARN)


def collect(
    checks: Iterable[tuple[str, Callable[[], Iterable[CheckResult]]]], on_error: CheckStatus
) -> list[CheckResult]:
    """Return the results of named checks.

    Args:
        on_error: status of a check that raises an unexpected exception; the other checks still run.
    """
    results: list[CheckResult] = []
    for name, check in checks:
        try:
            results += check()
        except Exception as error:  # noqa: BLE001 - a report with a gap is better than none
            detail = f"check failed: {type(error).__name__}: {error}"
            results.append(CheckResult(name, detail, "report this", on_error))
    return results


def run_doctor(as_json: bool, settings: Settings | None = None, seconds: float = 5.0) -> bool:
    """Check this machine and print the report; return whether nothing failed.

    Args:
        settings: source, model and so on, to try the parts of this machine too; None only looks at it.
    """
    results = examine()
    if settings is None:
        print_report(results, as_json)
    else:
        from camapp.commands.trials import Trials, print_trials, without_names

        results = without_names(results + Trials(settings, seconds).run())
        print_trials(results, as_json)
    return all(result.status is not CheckStatus.FAIL for result in results)


def print_report(results: Sequence[CheckResult], as_json: bool) -> None:
    """Print results as a coloured table, or as a JSON list."""
    if as_json:
        print(json.dumps([result.as_dict() for result in results], indent=2))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    colours = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "bold red"}
    width = max(len(result.name) for result in results)
    for result in results:
        line = Text(f"{result.status.value:<5}", colours[result.status])
        line.append(f"{result.name:<{width}}  ", "bold").append(result.detail, "default")
        console.print(line)
        if result.remedy:
            console.print(Text(f"     {'':<{width}}  -> {spelled(result.remedy)}", "cyan"))
