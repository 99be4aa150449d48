"""The service on a real boot: a Debian root under systemd-nspawn, in which install-service has installed the project.

Slow (a minute or two, once with a download). It needs root, systemd-nspawn and debootstrap. The first run
stores the Debian root in CAMAPP_BOOT_ROOT, or in the user's cache; later runs start with a copy of it.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.debian_root import NSPAWN, ROOT, in_root, prepared

PACKAGES = "ca-certificates,systemd,systemd-sysv,dbus,python3,python3-venv,libgl1,libglib2.0-0t64"
DEBOOTSTRAP = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie"]
FILES = "find / -xdev \\( -name .venv -o -path /proc -o -path /sys -o -path /run \\) -prune -o -print"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Machine:
    """A root folder, and the system that is booted from it."""

    def __init__(self, root):
        self.root = root
        self.nspawn = None
        self.leader = 0

    def before_boot(self, script):
        """Run a shell script in the root, with network, without a boot."""
        done = in_root(self.root, "/bin/sh", "-ec", script, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def boot(self):
        self.console = (self.root.parent / "console").open("w")
        command = [*NSPAWN, f"--directory={self.root}", "--boot"]
        self.nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console)
        self.wait(self.is_up, 60)

    def is_up(self):
        # The first child of nspawn only prepares its own child, which becomes the init process of the machine.
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        self.leader = int(children[0]) if children else 0
        return self.run("systemctl", "is-system-running").strip() in ("running", "degraded")

    def run(self, *command):
        done = subprocess.run(
            ["nsenter", "--all", f"--target={self.leader}", *command],
            capture_output=True, text=True, timeout=120, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        return done.stdout

    def send(self, signal_name, pid):
        assert int(pid) > 1
        self.run("/bin/sh", "-c", f"kill -{signal_name} {pid}")

    def show(self, name):
        return self.run("systemctl", "show", "camapp", f"--property={name}", "--value").strip()

    def journal(self):
        return self.run("journalctl", "--boot", "--unit=camapp", "--output=cat", "--no-pager")

    def predictions(self):
        file = self.root / "var/log/private/camapp/predictions.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]

    def workers(self):
        """Return the process ids inside the machine."""
        found = self.run("/bin/sh", "-c", "grep -l 'camapp[.]workers' /proc/[0-9]*/cmdline").split()
        return [path.split("/")[2] for path in found]

    def wait(self, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.journal() or (self.root.parent / "console").read_text()
            time.sleep(0.2)

    def wait_restarted(self, restarts, seconds):
        self.wait(lambda: int(self.show("NRestarts")) > restarts and self.show("ActiveState") == "active", seconds)

    def power_off(self):
        if self.nspawn is not None and self.nspawn.poll() is None:
            os.kill(self.leader, signal.SIGRTMIN + 14)  # systemd(1): power off at once
            try:
                self.nspawn.wait(5)
            except subprocess.TimeoutExpired:
                self.nspawn.kill()
                self.nspawn.wait(10)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    if "CAMAPP_BOOT_ROOT" not in os.environ and os.getloadavg()[0] > 3 * os.cpu_count():
        pytest.skip("this machine is too busy for bounds of seconds (CAMAPP_BOOT_ROOT=FOLDER runs it nevertheless)")
    base = prepared("CAMAPP_BOOT_ROOT", "boot-trixie", DEBOOTSTRAP)
    folder = tmp_path_factory.mktemp("boot")
    machine = Machine(folder / "root")
    subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(machine.root)], check=True, timeout=300)
    names = ["camapp", "engine", "weights", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"]
    (machine.root / "root/clone").mkdir()
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, machine.root / "root/clone" / name)
    machine.before_boot("cd /root/clone; python3 -m venv .venv; .venv/bin/python -m pip install -q -r requirements.txt")
    machine.before = machine.before_boot(FILES)
    machine.installed = machine.before_boot(
        "cd /root/clone; .venv/bin/python -m camapp install-service --source pattern://digits --workers 1"
        " --log /var/log/camapp/predictions.jsonl"  # every prediction, not only changes
    )
    try:
        machine.boot()
        yield machine
    finally:
        machine.power_off()
        shutil.rmtree(folder, ignore_errors=True)


def test_it_is_ready_within_ten_seconds_of_its_start(machine):
    machine.wait(lambda: machine.show("ActiveState") == "active", 30)
    started, ready = (int(machine.show(f"{name}TimestampMonotonic")) for name in ("InactiveExit", "ActiveEnter"))
    print(f"ready {(ready - started) / 1e6:.2f} s after its start")
    assert ready - started < 10e6
    assert machine.show("NRestarts") == "0"
    assert machine.show("DynamicUser") == "yes"


def test_predictions_are_in_the_log_and_systemd_gets_the_status(machine):
    machine.wait(lambda: len(machine.predictions()) > 150, 30)
    found = machine.predictions()
    assert [record["seq"] for record in found] == sorted(record["seq"] for record in found)
    assert sum(record["raw_label"] == record["truth"]["label"] for record in found) > 0.9 * len(found)
    machine.wait(lambda: "inference" in machine.show("StatusText"), 15)
    assert "inference" not in machine.journal(), "no status line every few seconds for months"


def test_a_killed_worker_is_replaced_without_a_restart(machine):
    machine.wait(lambda: len(machine.workers()) == 2, 10)  # a worker and the standby
    before = set(machine.workers())
    machine.send("KILL", min(before, key=int))
    machine.wait(lambda: len(machine.workers()) == 2 and set(machine.workers()) != before, 10)
    assert machine.show("NRestarts") == "0"


def test_a_killed_run_is_restarted(machine):
    restarts = int(machine.show("NRestarts"))
    machine.send("KILL", machine.show("MainPID"))
    began = time.monotonic()
    machine.wait_restarted(restarts, 15)
    print(f"back {time.monotonic() - began:.1f} s after SIGKILL")
    assert machine.run("ls", "/dev/shm").split() == []


def test_a_hung_run_is_restarted_by_the_watchdog(machine):
    restarts = int(machine.show("NRestarts"))
    machine.send("STOP", machine.show("MainPID"))
    began = time.monotonic()
    machine.wait_restarted(restarts, 10 + 5 + 2 + 10)  # watchdog, grace, RestartSec, ready
    print(f"back {time.monotonic() - began:.1f} s after SIGSTOP")
    assert "Watchdog timeout" in machine.journal()


def config_of(machine):
    return machine.root / "etc/camapp/config.toml"


def test_a_reload_changes_the_model_and_a_half_written_config_changes_nothing(machine):
    whole, restarts = config_of(machine).read_text(), machine.show("NRestarts")
    config_of(machine).write_text(whole.replace('model = "digits"', 'model = "lenet"'))
    machine.run("systemctl", "reload", "camapp")
    machine.wait(lambda: machine.predictions()[-1]["model"] == "lenet", 15)
    config_of(machine).write_text(whole[: len(whole) // 2] + '\nlog = "')  # half a line may be whole TOML by chance
    machine.run("systemctl", "reload", "camapp")
    machine.wait(lambda: "settings not reloaded" in machine.journal(), 10)
    seen = machine.predictions()[-1]["seq"]
    machine.wait(lambda: machine.predictions()[-1]["seq"] > seen, 10)
    assert machine.predictions()[-1]["model"] == "lenet"
    assert machine.show("NRestarts") == restarts
    config_of(machine).write_text(whole)


def test_installing_again_keeps_the_config_and_leaves_one_service_that_runs(machine):
    whole = config_of(machine).read_text()
    output = machine.run(
        "/bin/sh", "-c", "cd /root/clone && .venv/bin/python -m camapp install-service --source pattern://objects 2>&1"
    )
    assert "is kept as it is" in output
    assert config_of(machine).read_text() == whole
    machine.wait(lambda: machine.show("ActiveState") == "active", 20)
    assert machine.run("systemctl", "list-unit-files", "camapp*", "--no-legend").split()[:2] == [
        "camapp.service",
        "enabled",
    ]
    machine.wait(lambda: len(machine.workers()) == 2, 10)


def test_a_config_without_read_permission_is_reported_and_read_once_it_has_it(machine):
    config_of(machine).chmod(0o600)
    os.chown(config_of(machine), 1000, 1000)
    machine.run("systemctl", "restart", "camapp")
    machine.wait(lambda: machine.show("ExecMainStatus") == "77", 10)
    assert "/etc/camapp/config.toml: cannot read the configuration: Permission denied" in machine.journal()
    config_of(machine).chmod(0o644)
    os.chown(config_of(machine), 0, 0)
    machine.wait(lambda: machine.show("ActiveState") == "active", 20)


def test_the_service_starts_once_its_log_folder_is_writable(machine):
    machine.run("systemctl", "stop", "camapp")
    machine.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/var/log/private/camapp")
    machine.run("systemctl", "start", "camapp", "--no-block")
    machine.wait(lambda: int(machine.show("NRestarts")) > 0, 20)
    assert machine.show("ActiveState") != "active"
    machine.run("umount", "/var/log/private/camapp")
    machine.wait(lambda: machine.show("ActiveState") == "active", 20)
    seen = len(machine.predictions())
    machine.wait(lambda: len(machine.predictions()) > seen, 10)


def test_it_stops_within_five_seconds_and_leaves_nothing_in_memory(machine):
    assert machine.workers() != []
    began = time.monotonic()
    machine.run("systemctl", "stop", "camapp")
    print(f"stopped in {time.monotonic() - began:.2f} s")
    assert time.monotonic() - began < 5
    assert machine.show("Result") == "success"
    assert machine.run("ls", "/dev/shm").split() == []
    assert machine.workers() == []
    assert "in flight 0" in machine.journal()
    assert "DOES NOT ADD UP" not in machine.journal()


def test_a_bad_config_ends_with_78_and_no_restart(machine):
    whole = config_of(machine).read_text()
    config_of(machine).write_text("fpss = 3\n")
    machine.run("systemctl", "start", "camapp")
    machine.wait(lambda: machine.show("ActiveState") == "failed", 10)
    assert machine.show("ExecMainStatus") == "78"
    time.sleep(5)
    assert machine.show("ActiveState") == "failed"
    assert machine.show("NRestarts") == "0"
    assert "did you mean 'fps'" in machine.journal()
    config_of(machine).write_text(whole)


def test_uninstalling_leaves_nothing(machine):
    machine.run("systemctl", "start", "camapp")
    machine.run("/opt/camapp/bin/camapp", "uninstall-service")
    assert machine.run("systemctl", "list-unit-files", "camapp*", "--no-legend").strip() == ""
    after = machine.run("/bin/sh", "-c", FILES)
    new = set(after.splitlines()) - set(machine.before.splitlines())
    assert [path for path in sorted(new) if "camapp" in path and "/root/clone" not in path] == []
