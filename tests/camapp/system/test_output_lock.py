import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from camapp.system.output_lock import OutputInUse, OutputLock

ROOT = Path(__file__).parents[3]


def test_the_second_lock_of_an_output_is_refused_with_the_holders_name(tmp_path):
    first, second = OutputLock(tmp_path / "log.jsonl", "door"), OutputLock(tmp_path / "log.jsonl", "garden")
    first.acquire()
    with pytest.raises(OutputInUse, match=rf"camapp 'door' \(process {os.getpid()}\)"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_two_names_of_one_file_are_one_output(tmp_path):
    (tmp_path / "real.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    (tmp_path / "folder").mkdir()
    (tmp_path / "way").symlink_to("folder")
    for one, other in (("real.jsonl", "link.jsonl"), ("folder", "way"), ("folder/new", "way/new")):
        first = OutputLock(tmp_path / one, "a")
        first.acquire()
        with pytest.raises(OutputInUse):
            OutputLock(tmp_path / other, "b").acquire()
        first.release()


def test_a_killed_holder_leaves_no_lock(tmp_path):
    script = (
        "import sys; from pathlib import Path; from camapp.system.output_lock import OutputLock\n"
        "OutputLock(Path(sys.argv[1]), 'killed').acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        mine = OutputLock(tmp_path / "out", "mine")
        with pytest.raises(OutputInUse, match=rf"'killed' \(process {holder.pid}\)"):
            mine.acquire()
        holder.send_signal(signal.SIGKILL)
    mine.acquire()
    mine.release()


def test_a_name_of_any_length_can_be_locked(tmp_path):
    output = tmp_path / ("x" * 255)
    lock = OutputLock(output, "a")
    lock.acquire()
    with pytest.raises(OutputInUse):
        OutputLock(output, "b").acquire()
    lock.release()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_permission_in_the_folder_the_output_itself_is_locked(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "log").touch()
    folder.chmod(0o500)
    lock = OutputLock(folder / "log", "a")
    lock.acquire()
    with pytest.raises(OutputInUse, match="another program"):
        OutputLock(folder / "log", "b").acquire()
    lock.release()
    assert os.listdir(folder) == ["log"]
