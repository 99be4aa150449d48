"""`camapp classify` as a user runs it: folders, bad files, results files, interruption."""

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.capture.images import read_image, walk_images
from camapp.commands.classify.command import Stride, classify_files, grouped
from camapp.commands.classify.formats import COLUMNS, FORMATS, HEADERS, ResultRow
from camapp.commands.classify.job import FilesJob, FilesOptions, ReadItem, to_message
from camapp.core.frames import Frame
from camapp.core.models import load_model, model_path
from camapp.core.predictions import Box, KeyPoint, Prediction
from camapp.core.settings import load_settings
from camapp.scenes.digits import DigitScene
from camapp.scenes.scene import SceneOptions
from camapp.tasks.task import TaskOptions
from camapp.workers.protocol import MESSAGE_BYTES
from engine.runtime.convert import convert

ROOT = Path(__file__).resolve().parents[4]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "120"}


def digit(value, seed=0):
    """Return a digit of 28x28 pixels, white on black as in MNIST."""
    image = np.zeros((28, 28), np.uint8)
    x, y = np.random.default_rng(seed).integers(6, 10, 2).tolist()
    cv2.putText(image, str(value), (x, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
    return image


@pytest.fixture
def folder(tmp_path):
    """Write 40 digits into two folders; the files of index 5, 15, 25 and 35 are bad."""
    home = tmp_path / "digits"
    (home / "more").mkdir(parents=True)
    for index in range(40):
        path = home / ("more" if index >= 30 else "") / f"{index}_{index % 10}.png"
        cv2.imwrite(str(path), digit(index % 10, index))
    (home / "5_5.png").write_bytes(b"")
    (home / "15_5.png").write_text("no image")
    (home / "25_5.png").write_bytes((home / "24_4.png").read_bytes()[:60])
    (home / "more" / "35_5.png").write_bytes(os.urandom(300))
    (home / ".hidden_1.png").write_bytes(b"")
    (home / "notes.txt").write_text("not read")
    return home


BAD = {"5_5.png", "15_5.png", "25_5.png", "35_5.png"}


def camapp(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "camapp", "classify", *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def job(formats=("jsonl",), truth="auto", model="mnist", **options):
    loaded = load_model(load_settings({"model": model}, environment={}))
    return FilesJob(loaded, FilesOptions(TaskOptions(smoothing=0, **options), 8, truth, formats, model))


def test_every_image_gets_its_line_in_order_in_every_format(folder, tmp_path):
    done = camapp(folder, "--csv", tmp_path / "a.csv", "--jsonl", tmp_path / "a.jsonl", "--workers", 2, "--batch", 4)
    assert done.returncode == 0, done.stderr
    rows, objects = read_csv(tmp_path / "a.csv"), read_jsonl(tmp_path / "a.jsonl")
    names = [str(Path(row["file"]).relative_to(folder)) for row in rows]
    order = [*range(30, 40), *range(30)]  # text, as in 'more', comes before numbers
    assert names == [f"{'more/' if index >= 30 else ''}{index}_{index % 10}.png" for index in order]
    assert [row["file"] for row in rows] == [found["file"] for found in objects]
    for row, found in zip(rows, objects, strict=True):
        assert tuple(row) == tuple(found) == COLUMNS
        is_bad = Path(row["file"]).name in BAD
        assert bool(row["error"]) == bool(found["error"]) == is_bad
        assert row["label"] == found["label"]
        assert (row["width"], row["height"]) == (("0", "0") if is_bad else ("28", "28"))
        if not is_bad:
            assert found["truth"] == row["truth"] == row["file"][-5]
            assert found["top"] == json.loads(row["top"])
            assert found["top"][0] == [found["label"], found["score"]]
            assert found["boxes"] == json.loads(row["boxes"])
            assert [box["label"] for box in found["boxes"]] == [found["label"]]
    assert "40 of 40 images done" in done.stderr
    assert "4 could not be read:" in done.stderr
    assert "5_5.png: the file is empty" in done.stderr
    right = sum(row["truth"] == row["label"] for row in rows if not row["error"])
    assert re.search(rf"all +│ +36 │ +{right / 36:.2%}", done.stderr)
    assert "true \\" in done.stderr


def test_objects_are_written_with_points_track_and_mask_in_every_format():
    mask = (((1.0, 2.0), (3.0, 2.04), (2.0, 9.0)),)
    face = Box(1, 2, 3, 4, "person", 0.91, 7, (KeyPoint(1.26, 2, 0.5),), mask, 30.0)
    found = Prediction(
        0, "detect", "person", 0.91, boxes=(face, Box(5, 6, 7, 8, "dog")), counts={"person": 1, "dog": 1}
    )
    row = ResultRow("a.jpg", "net", (20, 10), "", found)
    expected = [
        {
            **{"xyxy": [1, 2, 3, 4], "label": "person", "score": 0.91, "track": 7, "angle": 30.0},
            **{"points": [[1.3, 2, 0.5]], "outlines": [[1.0, 2.0, 3.0, 2.0, 2.0, 9.0]]},
        },
        {"xyxy": [5, 6, 7, 8], "label": "dog", "score": 1.0},
    ]
    assert FORMATS["text"]([row]) == "a.jpg: 1 dog, 1 person\n"
    assert json.loads(FORMATS["jsonl"]([row]))["boxes"] == expected
    (cells,) = csv.DictReader((HEADERS["csv"] + FORMATS["csv"]([row])).splitlines())
    assert json.loads(cells["boxes"]) == expected


def test_lines_of_a_track_are_written_with_the_size_of_their_image(tmp_path):
    sizes = {"wide.png": (320, 240), "tall.png": (180, 320)}
    for name, size in sizes.items():
        image = np.full((size[1], size[0], 3), 70, np.uint8)
        for foot, head in ((0.15, 0.42), (0.85, 0.58)):
            ends = [(int(foot * size[0]), size[1] - 1), (int(head * size[0]), size[1] // 3)]
            cv2.line(image, *ends, (250, 250, 250), 8, cv2.LINE_AA)
        cv2.imwrite(str(tmp_path / name), image)
    done = camapp(tmp_path, "--model", "track", "--jsonl", tmp_path / "found.jsonl", "--workers", 1)
    assert done.returncode == 0, done.stderr
    for found in read_jsonl(tmp_path / "found.jsonl"):
        width, height = sizes[Path(found["file"]).name]
        assert (found["width"], found["height"]) == (width, height)
        assert len(found["lines"]) >= 2
        for line in found["lines"]:
            assert 0 < line["score"] <= 1
            points = np.array(line["points"])
            assert points.shape[1] == 2
            assert (points >= 0).all()
            assert (points <= (width, height)).all()


def test_results_are_those_of_one_image_at_a_time(folder):
    files = [str(path) for path in sorted(folder.glob("[0-4]*_*.png")) if path.name not in BAD]
    together = list(job().rows(files))
    alone = [row for file in files for row in job().rows([file])]
    for one, other in zip(together, alone, strict=True):
        assert one.prediction.label == other.prediction.label
        assert one.prediction.score == pytest.approx(other.prediction.score, abs=1e-5)


def test_images_prepared_together_equal_images_prepared_alone(tmp_path):
    """Digits of MNIST, some of which touch their rim, are mixed with images of other kinds and sizes."""
    if not MNIST.is_dir():
        pytest.skip(f"no MNIST at {MNIST}")
    with gzip.open(MNIST / "train-images-idx3-ubyte.gz") as file:
        file.seek(16)
        digits = np.frombuffer(file.read(400 * 784), np.uint8).reshape(-1, 28, 28)
    odd = {
        30: 255 - digits[30], 60: np.zeros((28, 28), np.uint8), 90: digits[90] // 8, 120: np.tile(digits[120], (2, 2)),
        150: cv2.cvtColor(digits[150], cv2.COLOR_GRAY2BGR), 180: cv2.resize(digits[180], (20, 40)),
        210: DigitScene(SceneOptions(size=(320, 240), seed=3, count=3)).render(0)[0], 240: None,
    }  # fmt: skip
    for index, digit in enumerate(digits):
        if odd.get(index, digit) is not None:
            cv2.imwrite(str(tmp_path / f"{index}_1.png"), odd.get(index, digit))
    (tmp_path / "240_1.png").write_text("no image")
    files = list(walk_images(tmp_path))
    together, alone = job(), job()
    alone.task.prepare_stills = lambda images, batch: [None] * len(images)
    rims = sum(digit[[0, -1]].any() or digit[:, [0, -1]].any() for digit in digits)
    assert rims > 0
    images = [read_image(file) for file in files if "240_" not in file]
    batch = np.zeros((len(images), 1, 28, 28), np.float32)
    found = together.task.prepare_stills(images, batch)
    assert len(found) - found.count(None) == len(digits) - (len(odd) - 1)
    inputs = iter(batch)
    for image, prepared in zip(images, found, strict=True):
        one = np.full((8, 1, 28, 28), np.nan, np.float32)
        expected = together.task.prepare(Frame.still(image), one)
        if prepared is not None:
            assert prepared == expected
            assert np.array_equal(next(inputs), one[0])
    rows, expected_rows = together.rows(files), alone.rows(files)
    for row, expected in zip(rows, expected_rows, strict=True):
        assert (row.file, row.size, row.truth, row.error) == (
            expected.file, expected.size, expected.truth, expected.error
        )  # fmt: skip
        if row.prediction:
            assert row.prediction.label == expected.prediction.label
            assert row.prediction.score == pytest.approx(expected.prediction.score, abs=1e-5)
            assert len(row.prediction.boxes) == len(expected.prediction.boxes)


def test_large_images_of_paper_are_found_and_read_too(tmp_path):
    image, truth = DigitScene(SceneOptions(size=(640, 480), seed=3, count=2)).render(0)
    cv2.imwrite(str(tmp_path / "page.png"), image[..., ::-1])
    (row,) = job().rows([str(tmp_path / "page.png")])
    assert row.prediction.label == truth.label
    assert len(row.prediction.boxes) == 2


def test_a_classifying_model_gives_its_best_labels(tmp_path):
    for name in ("cat", "dog"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((40, 50, 3), 90, np.uint8))
    rows = list(job(model="cifar10", top=4).rows(sorted(map(str, tmp_path.iterdir()))))
    for row in rows:
        scores = [score for _, score in row.prediction.top]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)
        assert row.prediction.label == "", "a grey image is none of the classes"
    (row,) = job(model="cifar_small").rows([str(tmp_path / "cat.png")])
    assert row.prediction.label == row.prediction.top[0][0], "the best is taken, at any score"


@pytest.mark.parametrize("model", ["mnist", "objects", "track"])
def test_bad_images_without_a_good_one_among_them_have_their_errors(tmp_path, model):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    rows = job(model=model).rows([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert [row.error for row in rows] == ["it is damaged, or not an image"] * 2


@pytest.mark.slow
def test_truths_that_are_no_label_are_said_once(tmp_path):
    for name in ("1_car.png", "2_unicorn.png", "3_unicorn.png", "4_plane.v2.png"):
        cv2.imwrite(str(tmp_path / name), np.full((32, 32, 3), 120, np.uint8))
    done = camapp(tmp_path, "--model", "cifar10", "--jsonl", "-", "--workers", 1)
    assert [json.loads(line)["truth"] for line in done.stdout.splitlines()] == ["automobile", "", "", "airplane"]
    said = "the true label of 2 images is no label of the model ('unicorn'): not counted above"
    assert done.stderr.count("unicorn") == 1
    assert said in done.stderr
    counted = camapp(tmp_path, "--model", "cifar10", "--truth", "name", "--workers", 1)
    assert said.replace("not counted above", "counted as wrong") in counted.stderr


def test_a_folder_that_is_no_label_is_said_where_others_are(tmp_path):
    for name in ("cat", "lorry"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.full((32, 32, 3), 120, np.uint8))
    done = camapp(tmp_path, "--model", "cifar10", "--workers", 1)
    assert "the true label of 1 image is no label of the model ('lorry')" in done.stderr


def test_numbers_of_photos_are_no_truths_worth_a_word(tmp_path):
    cv2.imwrite(str(tmp_path / "IMG_2041.png"), np.full((32, 32, 3), 120, np.uint8))
    done = camapp(tmp_path, "--model", "cifar10", "--workers", 1)
    assert "true label" not in done.stderr


def test_one_image_is_shown_with_its_best_labels(tmp_path):
    cv2.imwrite(str(tmp_path / "3_cat.png"), np.full((60, 80, 3), 120, np.uint8))
    done = camapp(tmp_path / "3_cat.png", "--model", "cifar10")
    assert done.returncode == 0, done.stderr
    first, *labels, truth = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / '3_cat.png'} (80x60): ")
    assert len(labels) == 5
    assert all("%" in label for label in labels)
    assert truth.strip().startswith("it is cat: ")


def test_without_a_file_lines_go_to_stdout(folder):
    done = camapp(folder, "--workers", 1)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 40
    assert lines[10].startswith(f"{folder}/0_0.png: ")
    assert lines[15] == f"{folder}/5_5.png: the file is empty"


def test_a_reader_of_stdout_that_ends_is_no_error(folder):
    done = subprocess.run(
        f"{sys.executable} -m camapp classify {folder} --batch 1 | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_resumed_run_has_the_results_of_an_uninterrupted_one(folder, tmp_path):
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    lines = tmp_path / "parts.jsonl"
    assert camapp(folder, "--csv", whole, "--workers", 1).returncode == 0
    for index in range(2000):
        cv2.imwrite(str(folder / f"x{index}_1.png"), digit(1, index))
    arguments = [folder, "--csv", parts, "--jsonl", lines, "--workers", "1", "--batch", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "camapp", "classify", *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 20
        while not parts.exists() or parts.stat().st_size < 2000:
            assert time.monotonic() < deadline, "no results"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=20)[1]
    assert process.returncode == 130, errors
    assert "--resume continues" in errors
    kept = read_csv(parts)
    assert 0 < len(kept) < 2040
    assert [row["file"] for row in kept] == [found["file"] for found in read_jsonl(lines)]

    # A kill can leave half a line, and one file ahead of the other.
    with parts.open("a") as file:
        file.write('"half')
    with lines.open("a") as file:
        file.write(lines.read_text().splitlines()[-1].replace(kept[-1]["file"], "ahead.png") + "\n")
    done = camapp(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"2040 of 2040 images done, {len(kept)} of them earlier" in done.stderr
    rows = read_csv(parts)
    assert [row["file"] for row in rows] == list(walk_images(folder))
    assert [row for row in rows if not Path(row["file"]).name.startswith("x")] == read_csv(whole)
    assert [found["file"] for found in read_jsonl(lines)] == [row["file"] for row in rows]
    counted = sum(1 for row in rows if row["truth"] and not row["error"])
    assert re.search(rf"all +│ +{counted} │", done.stderr)


def test_a_killed_worker_loses_no_image(folder):
    files = [str(path) for path in sorted(folder.rglob("[0-9]*.png")) if path.name not in BAD] * 20
    model = load_model(load_settings({}, environment={}))
    options = FilesOptions(TaskOptions(smoothing=0), 4, "auto", ("jsonl",), "mnist")
    found = []
    for number, read in enumerate(classify_files(model, options, files, workers=2)):
        found += [json.loads(line) for line in read.lines["jsonl"].splitlines()]
        if number in (5, 60):
            # A thread has its own children: the workers are those of the pool's thread.
            children = [
                int(pid)
                for task in Path("/proc/self/task").iterdir()
                for pid in (task / "children").read_text().split()
            ]
            os.kill(max(children), signal.SIGKILL)
    assert [row["file"] for row in found] == files
    assert not any(row["error"] for row in found)


def test_existing_results_are_not_overwritten(folder, tmp_path, inside):
    out = tmp_path / "a.csv"
    out.write_text("precious")
    done = inside("classify", folder, "--csv", out)
    assert done.returncode == 78
    assert done.stderr == f"camapp: {out} exists: add --resume to continue it, or remove it to start again\n"
    assert inside("classify", folder, "--csv", out, "--resume").returncode == 78
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent"], 69, "no such file or folder: absent"),
        (["{folder}", "--truth", "guess"], 2, "--truth guess is not one of auto, name, folder, none"),
        (["{folder}", "--executor", "dask"], 2, "--executor is local, or dask with --scheduler ADDRESS"),
        (["{folder}", "--scheduler", "tcp://x:1"], 2, "--executor is local, or dask with --scheduler ADDRESS"),
        (["{folder}", "--csv", "/dev/full"], 78, "cannot write /dev/full: No space left on device"),
        (["{folder}", "--jsonl", "/dev/full"], 78, "cannot write /dev/full: No space left on device; free some space"),
        (["{folder}", "--jsonl", "-", "--resume"], 78, "--resume needs a file to continue"),
        (["{folder}", "--model", "absent"], 78, "no model 'absent'"),
        (["{folder}", "--roi", "0.9,0,0.5,1"], 2, "command line: --roi = '0.9,0,0.5,1' is not allowed"),
        (["{folder}/5_5.png"], 69, "cannot read {folder}/5_5.png: the file is empty"),
        (["{folder}/5_5.png", "{folder}/15_5.png"], 69, "none of the images could be read"),
    ],
)
def test_mistakes_give_one_clear_line(folder, inside, arguments, code, message):
    done = inside("classify", *(text.format(folder=folder) for text in arguments))
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"camapp: {message.format(folder=folder)}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_results_of_another_model_are_not_continued(folder, tmp_path):
    out = tmp_path / "a.csv"
    assert camapp(folder, "--csv", out).returncode == 0
    before = out.read_bytes()
    done = camapp(folder, "--csv", out, "--resume", "--model", "lenet")
    assert done.returncode == 78
    assert "has results of model 'digits', not 'lenet'" in done.stderr
    assert out.read_bytes() == before


@pytest.mark.slow
def test_odd_file_names_are_kept_in_the_results_and_by_resuming(tmp_path):
    home = tmp_path / "odd"
    home.mkdir()
    names = b'comma, quote" [bold]_1.png', b"line\nend_2.png", b"no-utf8-\xff_3.png", b"carriage\rreturn_4.png"
    for name in (*names, "größe_5.png".encode()):
        with open(os.fsencode(home) + b"/" + name, "wb") as file:
            file.write(cv2.imencode(".png", digit(1))[1].tobytes())
    out = tmp_path / "odd.csv"
    assert camapp(home, "--csv", out).returncode == 0
    rows = read_csv(out)
    assert sorted(row["truth"] for row in rows) == ["1", "2", "3", "4", "5"]
    assert not any(row["error"] for row in rows)
    done = camapp(home, "--csv", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert "5 of 5 images done, 5 of them earlier" in done.stderr
    assert read_csv(out) == rows


def test_groups_fit_a_message():
    names = ["ü" * 3000 + str(index) for index in range(50)] + ["short"] * 10
    groups = list(grouped(names, lambda: 8))
    assert [name for group in groups for name in group] == names
    assert max(map(len, groups)) == 8
    assert all(len(to_message(group)) <= MESSAGE_BYTES for group in groups)


def test_faster_workers_get_more_files_at_a_time():
    stride = Stride(16)
    sizes = [stride.files()]
    for rate in [20_000] * 5 + [100] * 2:
        stride.learn(stride.files(), stride.files() / rate)
        sizes.append(stride.files())
    assert sizes == [16, 32, 64, 128, 128, 128, 16, 16]


def test_results_equal_themselves_after_the_way_to_the_parent():
    rows = [
        ResultRow('odd\n",\n"ü', "mnist", (28, 28), "3", Prediction(0, "digits", "7", 0.5, top=(("7", 0.5),))),
        ResultRow("gone", "mnist", error="no such file"),
    ]
    read = ReadItem.of(rows, ("text", "csv", "jsonl"))
    assert read.predicted == {("3", "7"): 1}
    assert read.bad == (("gone", "no such file"),)
    assert ReadItem.from_bytes(read.to_bytes()) == read


def test_labels_and_names_of_any_kind_are_written_unchanged():
    odd = ["\n", ',"\n",', '"', "[]", "ü", "\\n"]
    found = [
        Prediction(0, "digits", name, 0.5, top=((name, 0.25), ("b", 0.125)), boxes=(Box(0, 1, 2, 3, name, 0.5),) * 2)
        for name in odd
    ]
    read = ReadItem.of(
        [ResultRow(f"{name}.png", "any", (2, 3), "", one) for name, one in zip(odd, found, strict=True)], FORMATS
    )
    objects = [json.loads(line) for line in read.lines["jsonl"].decode().split("\n")[:-1]]
    cells = list(csv.DictReader(io.StringIO(HEADERS["csv"] + read.lines["csv"].decode(), newline="")))
    assert [line["file"] for line in objects] == [line["file"] for line in cells] == [f"{name}.png" for name in odd]
    for name, line, row in zip(odd, objects, cells, strict=True):
        assert line["top"] == json.loads(row["top"]) == [[name, 0.25], ["b", 0.125]]
        assert line["boxes"] == json.loads(row["boxes"]) == [{"xyxy": [0, 1, 2, 3], "label": name, "score": 0.5}] * 2
        assert (line["lines"], row["lines"]) == ([], "")


@pytest.mark.parametrize("size", [1, 3])
def test_a_net_for_one_batch_size_predicts_the_same_as_one_for_any(size, folder, tmp_path):
    """The net is an ONNX file whose first axis is fixed, the default of exporters."""
    onnx = pytest.importorskip("onnx")
    free, fixed = tmp_path / "free.onnx", tmp_path / "fixed.onnx"
    convert(model_path("mnist"), free)
    proto = onnx.load(free)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(proto, fixed)
    files = [str(folder / f"{index}_{index % 10}.png") for index in range(1, 5)]  # neither 1 nor 3 divides their number
    predictions = [[row.prediction for row in job(model=str(file)).rows(files)] for file in (free, fixed)]
    for any_, only in zip(*predictions, strict=True):
        assert any_.label == only.label
        assert any_.score == pytest.approx(only.score, abs=1e-5)
