"""The Python API with real runs: every way to end one is bounded, and errors have the line of the command line."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

import camapp
from camapp.capture.source import create_source
from tests.camapp.scripted import ScriptedSource
from tests.programs import children_of

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)
PATTERN = "pattern://digits?size=320x240"
# Limit in seconds for a stop on a busy machine; it takes less than two seconds on an idle one.
STOP = 10


def python(code, **options):
    options = {"capture_output": True, "text": True, "timeout": 60, "env": ENVIRONMENT, "cwd": ROOT, **options}
    return subprocess.run([sys.executable, "-c", code], **options)


def threads():
    return {thread.name for thread in threading.enumerate()} & {"camapp.watch", "capture", "prepare", "workers"}


def children(pid="self"):
    return [child for child in children_of(pid) if not is_decoder_of_stills(child)]


def is_decoder_of_stills(pid):
    """It belongs to no run, and ends by itself after two idle seconds."""
    with suppress(FileNotFoundError, ProcessLookupError):
        found = Path(f"/proc/{pid}/cmdline").read_bytes()
        # A child that has just begun or ended has no command line, or still this process's.
        return not found or b"still_process" in found or b"pytest" in found or b"exec(eval" in found
    return False


@pytest.fixture(autouse=True)
def no_run_is_left():
    yield
    assert not threads()
    assert not children()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """An image of generated digits, and their value."""
    source = create_source(
        "pattern://digits?size=640x480&seed=3", camapp.SourceOptions(realtime=False, size=(640, 480))
    )
    source.open()
    shot = source.read(1.0)
    path = tmp_path_factory.mktemp("digits") / f"1_{shot.truth.label}.png"
    cv2.imwrite(str(path), shot.view.bgr())
    return path, shot.truth.label


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video file of 12 frames."""
    path = tmp_path_factory.mktemp("video") / "digits.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for level in range(12):
        writer.write(np.full((120, 160, 3), 20 * level, np.uint8))
    writer.release()
    return path


# -- import


def test_the_import_is_quick_and_loads_no_heavy_module():
    done = python(
        "import sys, time; began = time.perf_counter(); import camapp; print(time.perf_counter() - began)\n"
        "print([name for name in ('numpy', 'cv2', 'pydantic', 'camapp.api') if name in sys.modules])"
    )
    seconds, loaded = done.stdout.splitlines()
    # About 7 ms; the limit allows for a busy machine.
    assert float(seconds) < 0.5
    assert loaded == "[]"


def test_every_exported_name_exists_and_others_do_not():
    assert all(getattr(camapp, name) is not None for name in camapp.__all__)
    assert set(camapp.__all__) <= set(dir(camapp))
    with pytest.raises(AttributeError, match="no attribute 'wacth'"):
        camapp.wacth  # noqa: B018


# -- load and predict


def test_a_path_bytes_and_arrays_give_the_label_that_the_command_line_prints(digits):
    path, label = digits
    model = camapp.load("digits")
    pixels = cv2.imread(str(path))
    predictions = [
        model.predict(str(path)),
        model.predict(path),
        model.predict(path.read_bytes()),
        model.predict(pixels, colour="BGR"),
        model.predict(pixels[..., ::-1]),
    ]
    assert {prediction.label for prediction in predictions} == {label}
    assert len({prediction.boxes for prediction in predictions}) == 1
    assert predictions[0].model == "digits"
    done = subprocess.run(
        [sys.executable, "-m", "camapp", "classify", str(path)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert f"): {label}\n" in done.stdout


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_a_prediction_is_drawn_on_a_copy_of_its_image(digits, colour):
    image = np.full((240, 320, 3), (10, 120, 230), np.uint8)
    prediction = camapp.Prediction(0, "classify", "cat", 0.9, boxes=(camapp.Box(100, 20, 200, 120, "cat", 0.9),))
    drawn = camapp.draw(image, prediction, colour=colour)
    assert (image == (10, 120, 230)).all()
    assert drawn.shape == image.shape
    assert (drawn[70, 160] == image[70, 160]).all()
    assert (drawn[20, 100:200] != image[20, 100:200]).any()


def test_settings_have_the_names_of_the_options(digits):
    path, _ = digits
    model = camapp.load("mnist", task="classify", top=2, labels="zero,one,two,three,four,five,six,seven,eight,nine")
    assert model.card.labels[1] == "one"
    assert [len(model.predict(path).top), model.predict(path).task] == [2, "classify"]


def test_an_image_by_itself_does_not_depend_on_the_one_before(digits):
    path, label = digits
    model = camapp.load("digits")
    assert model.predict(np.full((120, 160), 255, np.uint8)).label == ""
    assert model.predict(path).label == label
    assert model.predict(np.full((120, 160), 255, np.uint8)).label == ""


@pytest.mark.parametrize(
    "array", [np.zeros((9, 9, 3)), np.zeros((9, 9, 2), np.uint8), np.zeros(9, np.uint8), np.zeros((0, 9), np.uint8)]
)
def test_an_array_of_another_kind_is_refused(array):
    with pytest.raises(camapp.CamappError, match=r"expected uint8 \(height, width"):
        camapp.load("mnist").predict(array)


def test_damaged_bytes_and_another_colour_are_refused():
    model = camapp.load("mnist")
    with pytest.raises(camapp.CamappError, match="cannot read the bytes: it is damaged, or not an image"):
        model.predict(b"no image")
    with pytest.raises(camapp.CamappError, match="colour='HSV' is not allowed"):
        model.predict(np.zeros((9, 9, 3), np.uint8), colour="HSV")


# -- watch


def test_every_frame_of_a_file_comes_in_order_however_slow_the_loop(video):
    frames = []
    for result in camapp.watch(video, model="mnist", workers=1):
        time.sleep(0.02)
        frames.append(result.frame.seq)
        assert result.prediction.seq == result.frame.seq == result.trace.seq
    assert frames == list(range(12))


def test_a_slow_loop_skips_results_of_a_live_source_and_never_delays_the_run():
    with camapp.watch(PATTERN, model="mnist", workers=1) as results:
        seen = []
        for result in results:
            seen.append(result.frame.seq)
            time.sleep(0.3)
            if len(seen) == 4:
                break
    assert seen == sorted(set(seen))
    assert results.skipped > 0
    assert results.skipped + len(seen) <= results.status().balance.predicted
    assert results.status().balance.is_conserved


def test_leaving_the_with_block_ends_the_run_within_its_bound():
    with camapp.watch(PATTERN, model="mnist", workers=1) as results:
        next(results)
        assert threads()
        began = time.monotonic()
    assert time.monotonic() - began < STOP
    assert not threads()
    assert next(results, None) is None


def test_a_with_block_may_be_left_before_the_first_result():
    began = time.monotonic()
    with camapp.watch(PATTERN, model="mnist", workers=1):
        pass
    assert time.monotonic() - began < STOP


def test_a_file_whose_results_are_not_taken_does_not_delay_the_stop(video):
    with camapp.watch(video, model="mnist", workers=1, loop=True) as results:
        next(results)
        time.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < STOP


def test_a_break_ends_the_run():
    for _ in camapp.watch(PATTERN, model="mnist", workers=1):
        break
    assert not threads()


def test_an_exception_in_the_loop_ends_the_run():
    def loop():
        for _ in camapp.watch(PATTERN, model="mnist", workers=1):
            raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        loop()
    assert not threads()


def test_a_discarded_iterator_ends_the_run():
    class Holder:
        pass

    holder = Holder()
    holder.cycle, holder.results = holder, camapp.watch(PATTERN, model="mnist", workers=1)
    next(holder.results)
    del holder
    gc.collect()
    assert not threads()


def test_garbage_collected_in_another_thread_ends_the_run():
    results = [camapp.watch(PATTERN, model="mnist", workers=1)]
    next(results[0])
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join(STOP)
    deadline = time.monotonic() + STOP
    while threads() or children():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_works_in_a_thread_and_leaves_the_signal_handlers_alone():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    seen = []

    def work():
        with camapp.watch(PATTERN, model="mnist", workers=1) as results:
            seen.append(next(results).prediction.model)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(40)
    assert seen == ["mnist"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_paused_run_gives_no_results():
    with camapp.watch(PATTERN, model="mnist", workers=1) as results:
        next(results)
        results.pause()
        assert results.status().state.value == "paused"
        results.resume()
        next(results)


def test_outputs_of_the_settings_and_the_duration_work(tmp_path):
    log = tmp_path / "log.jsonl"
    count = sum(1 for _ in camapp.watch(PATTERN, model="mnist", workers=1, duration=1, log=log))
    assert count > 0
    assert len(log.read_text().splitlines()) >= count


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "1 / 0", "raise SystemExit(3)", "import os, signal; os.kill(os.getpid(), 2)"])
def test_the_exit_of_the_interpreter_ends_an_open_run_and_leaves_no_process(ending):
    code = (
        "import camapp, pathlib\n"
        f"results = camapp.watch({PATTERN!r}, model='mnist', workers=1)\n"
        "next(results)\n"
        "print(*[c for t in pathlib.Path('/proc/self/task').iterdir() for c in (t / 'children').read_text().split()])\n"
        f"{ending}"
    )
    done = python(code)
    pids = done.stdout.split()
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "camapp" not in done.stderr.partition("Traceback")[0]


# -- sinks, sources and tasks of the caller


class Counter(camapp.PredictionSink):
    def __init__(self):
        self.seqs = []

    def accept(self, prediction, frame, trace):
        self.seqs.append(prediction.seq)


class Shapes(camapp.ImageSink):
    def __init__(self):
        self.shapes = []

    def show(self, canvas, trace):
        self.shapes.append(canvas.shape)


class Ramp(camapp.Source):
    """Six frames, each brighter than the one before."""

    live = False

    def __init__(self, *_):
        self.level = 0

    def open(self):
        pass

    def read(self, timeout):
        if self.level == 6:
            raise camapp.EndOfStream
        self.level += 1
        image = camapp.Image.of(np.full((30, 40), 40 * self.level, np.uint8), camapp.Layout.GRAY)
        return camapp.Shot(image, image)

    def close(self):
        pass


class Brightness(camapp.Task):
    name = "brightness"

    def prepare(self, frame, batch):
        batch[0] = frame.view.gray().mean() / 255
        return camapp.Prepared(1, None)

    def decode(self, frame, outputs, prepared, now_ns):
        level = float(frame.view.gray().mean())
        return camapp.Prediction(frame.seq, self.name, values={"level": level, "outputs": float(outputs[0].size)})


def test_sinks_of_the_callers_own_receive_every_prediction_and_image(video):
    counter, shapes = Counter(), Shapes()
    for _ in camapp.watch(video, model="mnist", workers=1, sinks=[counter, shapes]):
        pass
    assert counter.seqs == list(range(12))
    assert shapes.shapes == [(120, 160, 3)] * 12


@pytest.mark.parametrize("source", [Ramp, Ramp()])
def test_a_source_and_a_task_of_the_callers_own(source):
    results = list(camapp.watch(source, model="mnist", task=Brightness, workers=1, rotate=90))
    assert [result.prediction.values["level"] for result in results] == [40, 80, 120, 160, 200, 240]
    assert results[0].prediction.task == "brightness"
    assert results[0].frame.view.size == (30, 40)


def test_a_task_of_the_callers_own_predicts_single_images():
    model = camapp.load("mnist", task=Brightness)
    assert model.predict(np.full((20, 30), 7, np.uint8)).values == {"level": 7.0, "outputs": 10.0}


def test_what_is_no_sink_is_refused():
    with pytest.raises(TypeError, match="neither a PredictionSink nor an ImageSink"):
        camapp.watch(PATTERN, model="mnist", sinks=[object()])


@pytest.mark.parametrize(
    "wrong", [{"drive": "udp://127.0.0.1:9"}, {"display": "drm"}, {"sinks": [object()]}, {"web": "192.0.2.1:80"}]
)
def test_a_refused_run_leaves_no_descriptor_open(wrong):
    def refused():
        with pytest.raises((camapp.CamappError, TypeError)):
            next(camapp.watch(PATTERN, model="mnist", **wrong))
        # The pipeline and its stages refer to each other.
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    assert refused() == refused()


def test_a_source_that_fails_for_good_raises_its_error_after_the_last_result():
    source = ScriptedSource(3, camapp.SourceLost("unplugged"), live=False)
    seen = []
    results = camapp.watch(source, model="mnist", workers=1)
    with pytest.raises(camapp.CamappError, match="unplugged") as caught:
        seen.extend(result.frame.seq for result in results)
    assert seen == [0, 1, 2]
    assert caught.value.code == 69


# -- errors


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (lambda folder: camapp.load("absent"), "classify --model absent x.png"),
        (lambda folder: camapp.load(folder / "bad.npz"), "classify --model {}/bad.npz x.png"),
        (lambda folder: camapp.load("digits", task="tracks"), "classify --task tracks x.png"),
        (lambda folder: camapp.load("mnist", mean="1,2"), "classify --model mnist --mean 1,2 x.png"),
        (lambda folder: camapp.load("digits").predict(folder / "no.png"), "classify {}/no.png"),
        (lambda folder: camapp.load("digits").predict(folder / "bad.png"), "classify {}/bad.png"),
        (lambda folder: camapp.watch(fps=-1), "--fps -1"),
        (lambda folder: camapp.watch(roi="0.5,0,1,1"), "--roi 0.5,0,1,1"),
        (lambda folder: camapp.watch("gopher://camera"), "--source gopher://camera"),
        (lambda folder: camapp.watch(model=folder / "bad.npz"), "--model {}/bad.npz"),
        (
            lambda folder: camapp.watch(PATTERN, drive="udp://127.0.0.1:9"),
            f"--source {PATTERN} --drive udp://127.0.0.1:9",
        ),
        (lambda folder: camapp.watch(PATTERN, record="x.gif"), f"--source {PATTERN} --record x.gif"),
        (lambda folder: list(camapp.watch(folder / "no.mp4")), "--source {}/no.mp4"),
        (
            lambda folder: list(camapp.watch(log=folder, duration=1)),
            f"--source {PATTERN} --log {{}} --duration 1",
        ),
    ],
)
def test_an_error_has_the_line_of_the_command_line(tmp_path, inside, call, arguments):
    (tmp_path / "bad.npz").write_bytes(b"no model")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(camapp.CamappError) as caught:
        call(tmp_path)
    done = inside(*arguments.format(tmp_path).split())
    lines = [line for line in done.stderr.splitlines() if line.startswith("camapp: ")]
    assert lines == [f"camapp: {caught.value}"]
    assert caught.value.code == done.returncode


def test_an_unknown_setting_is_named_with_the_nearest_one():
    with pytest.raises(camapp.CamappError, match="unknown setting 'fpss'; did you mean 'fps'"):
        camapp.watch(fpss=30)


def test_a_bad_model_is_also_an_error_of_the_engine():
    from engine.model import ModelError

    with pytest.raises(ModelError) as caught:
        camapp.load("absent")
    assert isinstance(caught.value, camapp.BadModel)
