"""The program as a user starts it: exit codes, one clear line, no traceback, nothing left behind."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from camapp.cli import app
from tests.camapp.desktop import Desktop
from tests.programs import children_of

ROOT = Path(__file__).parents[2]
QUIET = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
ENVIRONMENT = QUIET | {"PYTHONPATH": str(ROOT)}


def camapp(*arguments, cwd=ROOT, **options):
    command = [sys.executable, "-m", "camapp", *map(str, arguments)]
    options = {"capture_output": True, "text": True, "timeout": 60, "env": ENVIRONMENT, **options}
    return subprocess.run(command, cwd=cwd, **options)


def start(*arguments, before=()):
    command = [*before, sys.executable, "-m", "camapp", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def refused(done, code, reason):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("camapp: ")]
    assert len(lines) == 1, done.stderr
    assert reason in lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of every awkward kind, each a white digit-like stroke."""
    path = tmp_path_factory.mktemp("pictures")
    base = np.zeros((28, 28, 4), np.uint8)
    base[4:24, 13:16] = 255
    base[..., 3] = 255
    cv2.imwrite(str(path / "01_1.png"), base)
    cv2.imwrite(str(path / "02_1.png"), base[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(path / "03_1.png"), base[..., 0])
    cv2.imwrite(str(path / "04_x.png"), np.full((1, 1), 128, np.uint8))
    cv2.imwrite(str(path / "05_1.jpg"), cv2.resize(base[..., :3], (640, 480)))
    (path / "06_1.png").write_bytes(b"not an image")
    return path


def test_a_folder_runs_to_its_end_and_every_image_is_accounted_for(folder):
    done = camapp("--source", folder, "--log", "-")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["file"] for record in records] == ["01_1.png", "02_1.png", "03_1.png", "04_x.png", "05_1.jpg"]
    assert [record["raw_label"] for record in records[:3]] == ["1", "1", "1"]
    assert records[0]["truth"]["label"] == "1"
    assert "captured 5 = predicted 5 + dropped 0 + failed 0 + in flight 0" in done.stderr
    assert "06_1.png" in done.stderr


@pytest.mark.parametrize("words", [("run", "--model", "digits", "{}"), ("{}",), ("bench", "{}", "--print")])
def test_a_source_needs_no_option(folder, inside, words):
    words = [word.format(folder / "01_1.png") for word in words if word != "--print"]
    if words[0] != "bench":
        words.append("--print-config")
        assert f'source = "{folder / "01_1.png"}"' in inside(*words).stdout
    else:
        assert "captured 1 = predicted 1" in camapp(*words).stdout


@pytest.mark.parametrize("option", ["--sorce", "--lables"])
def test_an_unknown_option_names_those_that_are_meant(option):
    done = CliRunner().invoke(app, ["run", option, "x"])
    assert done.exit_code == 2
    assert {"--sorce": "--source", "--lables": "--labels"}[option] in done.output


def test_without_a_camera_or_display_it_shows_the_pattern_and_prints_predictions():
    done = camapp("--duration", "2")
    assert done.returncode == 0, done.stderr
    assert "no display" in done.stderr
    assert "pattern" in done.stderr
    assert "inference" in done.stderr
    assert "ended after" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("Xvfb", "xdotool"))), reason="needs Xvfb and xdotool")
def test_a_film_in_a_window_takes_its_time_and_stays_until_it_is_closed(tmp_path):
    film, log = tmp_path / "film.mp4", tmp_path / "log.jsonl"
    camapp("render", "pattern://digits?size=320x240", film, "--seconds", "3")
    desktop = Desktop()
    environment = ENVIRONMENT | {"DISPLAY": desktop.name}
    with subprocess.Popen([sys.executable, "-m", "camapp", film, "--log", log], env=environment) as process:
        try:
            moments = []
            deadline = time.monotonic() + 60
            # Frame 89 is the last of 3 s at 30 a second; it may have been skipped.
            while not moments or moments[-1] < 2.5:
                assert time.monotonic() < deadline
                time.sleep(0.1)
                records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
                moments = [(record["t_mono_ns"] - records[0]["t_mono_ns"]) / 1e9 for record in records]
            assert process.poll() is None
            while process.poll() is None and time.monotonic() < deadline:
                desktop.press("camapp", "q")
                time.sleep(0.2)
            assert process.returncode == 0
        finally:
            process.kill()
            desktop.kill()


@pytest.mark.slow
def test_it_runs_from_another_directory(tmp_path):
    done = camapp("--source", "pattern://digits", "--max-frames", "3", "--log", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 1


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--model", "absent.npz"), 78, "no model 'absent.npz'"),
        (("--labels", "a,b,c"), 78, "3 labels"),
        (("--model", "mnist", "--net", "lenet"), 78, "lenet"),
        (("--task", "dance"), 78, "unknown task 'dance'"),
        (("--mean", "1,2"), 78, "--mean has 2 values"),
        (("--source", "gopher://x"), 78, "unknown source scheme"),
        (("--source", "pattern://desk"), 78, "known are crossing, digits, objects, track"),
        (("--fps", "0"), 2, "--fps"),
        (("--config", "absent.toml"), 78, "absent.toml"),
        (("--source", "pattern://digits", "--record", "x.gif"), 78, "x.gif"),
        (("--source", "pattern://digits", "--on-label", "no-such-program-here"), 78, "no-such-program-here"),
        (("doctor", "--fps", "30"), 2, "--fps has an effect only with --try"),
        (("--model", "digts"), 78, "did you mean 'digits'?"),
        (("clasify", "x.png"), 2, "'clasify' is no command, and no file or camera; did you mean 'classify'?"),
        (("photo",), 2, "'photo' is no command, and no file or camera; 'camapp --help' lists the commands"),
        (("a.mp4", "--source", "b.mp4"), 2, "'a.mp4' and --source 'b.mp4' are two sources: give one"),
    ],
)
def test_a_users_mistake_gives_one_clear_line_and_the_right_exit_code(inside, arguments, code, reason):
    refused(inside(*arguments), code, reason)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--source", "absent.mp4"), 69, "absent.mp4"),
        pytest.param(("--source", "v4l2://97"), 69, "97", marks=pytest.mark.slow),  # it waits for one to be plugged in
        (("--source", "pattern://digits", "--log", "/dev/null/x"), 78, "cannot write the log"),
    ],
)
def test_a_mistake_that_only_the_start_finds_gives_one_clear_line_and_the_right_exit_code(arguments, code, reason):
    refused(camapp(*arguments), code, reason)


def test_damaged_models_are_refused(inside, tmp_path):
    good = (ROOT / "weights" / "mnist.npz").read_bytes()
    cases = {"cut.npz": good[: len(good) // 2], "text.npz": b"hello", "empty.npz": b""}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        refused(inside("--model", tmp_path / name), 78, name)


def test_a_text_file_named_mp4_and_an_empty_folder_are_refused(tmp_path):
    (tmp_path / "notes.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    refused(camapp("--source", tmp_path / "notes.mp4"), 69, "notes.mp4")
    refused(camapp("--source", tmp_path / "empty"), 69, "empty")


def test_debug_shows_the_traceback():
    done = camapp("--model", "absent.npz", "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode == 78


def test_a_model_without_a_card_runs_if_its_net_is_given(tmp_path, folder):
    with np.load(ROOT / "weights" / "mnist.npz") as bundle:
        np.savez(tmp_path / "model.npz", **{key: bundle[key] for key in bundle.files if key != "__card__"})
    done = camapp("--source", folder, "--model", tmp_path / "model.npz", "--net", "mnist", "--log", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["raw_label"] == "1"


def test_labels_from_a_file_are_used(tmp_path, folder):
    (tmp_path / "names.txt").write_text("\n".join(f"digit-{index}" for index in range(10)))
    done = camapp("--source", folder, "--labels", tmp_path / "names.txt", "--log", "-")
    assert json.loads(done.stdout.splitlines()[0])["raw_label"] == "digit-1"


def test_print_config_and_check_config_agree(inside, tmp_path):
    config = tmp_path / "camapp.toml"
    config.write_text(inside("run", "--print-config", "--fps", "25").stdout)
    done = inside("check-config", config)
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout
    config.write_text("fpss = 3")
    refused(inside("check-config", config), 78, "did you mean 'fps'")


def test_check_config_lists_all_faults(inside, tmp_path):
    config = tmp_path / "camapp.toml"
    config.write_text("fpss = 3\nfps = -1\n")
    done = inside("check-config", config)
    assert done.returncode == 78
    assert [line for line in done.stderr.splitlines() if line.startswith("camapp: ")] == done.stderr.splitlines()
    assert len(done.stderr.splitlines()) == 2
    config.write_text(f'source = "{tmp_path}/absent.mp4"\nmodel = "absent.npz"\nlog = "/dev/null/x"\n')
    done = inside("check-config", config)
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 3
    assert done.stdout == ""


def test_models_and_sources_are_listed(inside):
    assert "mnist" in inside("models").stdout
    assert {model["net"] for model in json.loads(inside("models", "--json").stdout)} >= {"mnist", "cifar10"}
    assert "pattern://digits" in [source["uri"] for source in json.loads(inside("sources", "--json").stdout)]


def test_help_is_complete():
    text = camapp("run", "--help", env=ENVIRONMENT | {"COLUMNS": "200"}).stdout
    for flag in ("--source", "--model", "--roi", "--camera-control", "--workers", "--log", "--on-label", "--config"):
        assert flag in text


@pytest.mark.parametrize("name", [command.name for command in app.registered_commands])
def test_every_command_has_a_help_page(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.exception
    assert "Usage: " in result.output


def test_help_is_quick():
    script = (
        "import sys; sys.argv = ['camapp', '--help']\n"
        "from camapp.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(' '.join({'numpy', 'cv2', 'pydantic', 'rich.markdown'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "", "each of these takes 0.1 s and more to import"
    assert "Run a model on a camera or file, live." in done.stdout


def test_former_spellings_of_options_and_commands_still_work(tmp_path, inside):
    former = inside("run", "--camera-view", "70", "--camera-bend=20", "--print-config")
    present = inside("run", "--camera-hfov", "70", "--camera-distortion=20", "--print-config")
    assert former.returncode == 0, former.stderr
    assert former.stdout == present.stdout
    assert "camera_hfov = 70.0" in former.stdout
    assert "camera_distortion = 20.0" in former.stdout
    assert "--camera-view" not in inside("run", "--help").stdout
    video = tmp_path / "digits.avi"
    done = camapp("film", "pattern://digits?size=64x64&fps=5", video, "--seconds", "0.4")
    assert done.returncode == 0, done.stderr
    assert video.exists()
    for option in ("--bend", "--distortion"):
        refused(inside("calibrate-track", "absent.png", option, "10", "--point", "1,1=0,0"), 78, "absent.png")
    # The trials of `selftest` are tested with the command.
    assert inside("selftest", "--help").stdout == inside("doctor", "--help").stdout


@pytest.mark.slow
def test_bench_prints_json():
    done = camapp("bench", "--source", "pattern://digits?size=320x240", "--seconds", "1", "--draw", "--json")
    figures = json.loads(done.stdout)
    assert figures["inference_fps"] > 0
    assert figures["display_fps"] > 0
    assert set(figures["latency_ms"]["infer"]) == {"p50", "p95", "p99"}
    assert figures["cpu_ms_per_frame"] > 0
    assert figures["peak_rss_mb"] > 30


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly_and_soon(number):
    with start("--source", "pattern://digits", "--log", "-") as process:
        process.stdout.readline()
        workers = children_of(process.pid)
        assert workers
        sent = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - sent < 8
    assert process.returncode == 0
    assert signal.Signals(number).name in errors
    assert "in flight 0" in errors
    assert "DOES NOT ADD UP" not in errors
    assert all(gone(pid) for pid in workers)


def test_a_reader_that_leaves_ends_the_run(tmp_path):
    with start("--source", "pattern://digits", "--log", "-") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=10) == 0
        errors = process.stderr.read()
    assert "stdout was closed" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_terminal_that_goes_away_ends_the_run_without_an_error(tmp_path):
    source = "pattern://digits?size=320x240"
    command = [sys.executable, "-m", "camapp", "--source", source, "--model", "mnist", "--log", str(tmp_path / "log")]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, command, ENVIRONMENT)
    seen = b""
    while b"frame" not in seen:
        seen += os.read(terminal, 1 << 16)
    os.close(terminal)
    deadline = time.monotonic() + 30
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_nothing_outlives_a_killed_run():
    shared = set(os.listdir("/dev/shm"))
    with start("--source", "pattern://digits", "--workers", "2", "--log", "-") as process:
        process.stdout.readline()
        workers = children_of(process.pid)
        assert len(workers) >= 2  # with the standby, once it was started
        process.kill()
        deadline = time.monotonic() + 5
        while not all(gone(pid) for pid in workers):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.01)
    # Browsers and screens of other tests add and remove files there too.
    assert not [name for name in set(os.listdir("/dev/shm")) - shared if name.startswith(("camapp", "psm_", "sem."))]


@pytest.mark.slow
def test_no_window_code_is_imported_without_a_display():
    script = (
        "import sys; sys.argv = ['camapp', '--display', 'none', '--source', 'pattern://digits', '--max-frames', '2'];"
        "from camapp.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit('camapp.sinks.window' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=ENVIRONMENT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_timeout_which_signals_twice_at_once_ends_the_run_cleanly():
    source = "pattern://digits?size=320x240"
    with start("--source", source, "--log", "-", before=("timeout", "60")) as process:
        process.stdout.readline()
        process.terminate()  # passed on to its child, and to its child's group
        _, errors = process.communicate(timeout=30)
    assert "SIGTERM" in errors
    assert "in flight 0" in errors


@pytest.mark.slow
def test_modules_in_the_current_folder_are_not_imported(tmp_path):
    for name in ("json.py", "engine.py", "socket.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the wrong place')")
    (tmp_path / "mnist").mkdir()
    command = [sys.executable, "-P", "-m", "camapp", "--source", "pattern://digits", "--max-frames", "3", "--log", "-"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_no_output_may_be_an_input(inside, tmp_path):
    video = tmp_path / "film.mp4"
    video.write_bytes(b"precious")
    refused(inside("--source", video, "--record", video), 78, "name another")
    refused(inside("--source", video, "--log", video), 78, "name another")
    assert video.read_bytes() == b"precious"


def test_every_image_of_a_folder_is_labelled_by_itself(tmp_path):
    for index, width in enumerate((2, 12, 2, 12)):
        image = np.zeros((28, 28), np.uint8)
        if width == 2:
            image[4:24, 13:16] = 255  # a 1
        else:
            cv2.ellipse(image, (14, 14), (6, 9), 0, 0, 360, 255, 2)  # a 0
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    done = camapp("--source", tmp_path, "--log", "-")
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["1", "0", "1", "0"]


@pytest.mark.slow
def test_a_signal_to_the_whole_group_costs_no_worker():
    command = [sys.executable, "-m", "camapp", "--source", "pattern://digits", "--log", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True, process_group=0
    ) as run:
        run.stdout.readline()
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=10)
    assert run.returncode == 0
    assert "died" not in errors
    assert "replaced" not in errors


def test_an_unreadable_file_gives_the_exit_code_for_permissions(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    model = tmp_path / "model.npz"
    model.write_bytes((ROOT / "weights" / "mnist.npz").read_bytes())
    model.chmod(0o600)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "film.mp4").write_text("")
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    try:
        subprocess.run([sys.executable, "-c", ""], user=65534, group=65534, cwd="/", check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this Python may not be run by another user")
    other = {"user": 65534, "group": 65534, "env": ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"}}
    refused(camapp("--model", model, cwd="/", **other), 77, "model.npz")
    refused(camapp("--source", closed / "film.mp4", cwd="/", **other), 77, "film.mp4")


@pytest.mark.slow
def test_closed_standard_streams_do_no_harm():
    line = f"exec {sys.executable} -m camapp --source pattern://digits --max-frames 2 --display none 2>&- >&-"
    assert subprocess.run(["sh", "-c", line], cwd=ROOT, env=ENVIRONMENT, timeout=60).returncode == 0


@pytest.mark.slow
def test_the_page_is_served_at_a_bare_flag_and_a_taken_port_is_refused(tmp_path):
    pytest.importorskip("starlette", reason="the extra 'web' is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = camapp("run", "--source", "pattern://digits", "--display", "none", "--web", address)
    refused(done, 78, "another program has this port")
    run = start("run", "--web", "--source", "pattern://digits", "--display", "none", "--log", str(tmp_path / "log"))
    try:
        lines = iter(run.stderr.readline, "")
        line = next(line for line in lines if "page" in line or line.startswith("camapp: "))
        # Another program may use port 8080 of this machine.
        if "another program" not in line:
            assert line == "camapp: the page is at http://127.0.0.1:8080/\n"
            assert b"camapp" in urllib.request.urlopen("http://127.0.0.1:8080/", timeout=30).read()
    finally:
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=20)


@pytest.mark.slow
def test_it_runs_as_the_first_process_of_a_container():
    contained = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if not shutil.which("unshare") or subprocess.run([*contained, "true"], capture_output=True, timeout=20).returncode:
        pytest.skip("needs unshare with user namespaces")
    done = subprocess.run(
        [*contained, sys.executable, "-m", "camapp", "--source", "pattern://digits", "--max-frames", "3", "--log", "-"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "died" not in done.stderr
    assert done.stdout


def test_a_warning_of_the_engine_is_one_log_line(inside, tmp_path):
    with np.load(ROOT / "weights/mnist.npz") as bundle:
        arrays = {name: bundle[name] for name in bundle.files if bundle[name].dtype == np.float32}
    np.savez(tmp_path / "mine.npz", **arrays)
    found = inside("classify", tmp_path / "none", "--model", tmp_path / "mine.npz")
    (line,) = [line for line in found.stderr.splitlines() if "taken for" in line]
    assert " W taken for net 'mnist'" in line
    assert "UserWarning" not in found.stderr
