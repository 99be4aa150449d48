import gzip
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.core.frames import Frame, Shot
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box
from camapp.scenes.digits import DigitScene
from camapp.scenes.scene import SceneOptions
from camapp.tasks.digit_segmentation import find_marks
from camapp.tasks.digits import DigitsTask
from camapp.tasks.task import TaskOptions, create_task
from engine.model import ModelCard, load

ROOT = Path(__file__).parents[3]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
CARD = ModelCard(net="mnist", task="digits", input_shape=(1, 28, 28), colour="GRAY", labels=tuple("0123456789"))


@pytest.fixture(scope="module")
def model():
    return load(ROOT / "weights" / "mnist.npz")


def frame_of(pixels, model_size=None):
    layout = Layout.GRAY if pixels.ndim == 2 else Layout.RGB
    view = Image.of(pixels, layout)
    if model_size is None:
        return Frame(0, Shot(view, view))
    small = cv2.resize(pixels, model_size, interpolation=cv2.INTER_AREA)
    return Frame(0, Shot(view, Image.of(small, layout)))


def paper(width=640, height=360, light=(230, 230)):
    return np.tile(np.linspace(*light, width).astype(np.uint8), (height, 1))


def write(pixels, text, x, y, height, darkness=60, thick=5):
    cv2.putText(pixels, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, height / 22, darkness, thick, cv2.LINE_AA)


def overlap(a, b):
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    common = max(0.0, width) * max(0.0, height)
    return common / ((a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - common)


def read(model, frame, options=None):
    task = create_task("digits", CARD, options or TaskOptions(smoothing=0))
    batch = np.zeros((task.max_items, 1, 28, 28), np.float32)
    prepared = task.prepare(frame, batch)
    outputs = [np.asarray(model.run(batch))[: prepared.count]]
    return task.decode(frame, outputs, prepared, 0)


@pytest.mark.slow
@pytest.mark.parametrize("model_size", [None, (320, 240)])
def test_digits_of_generated_scenes_are_read_and_located(model, model_size):
    total = right = false = 0
    for seed in range(20):
        scene = DigitScene(SceneOptions(seed=seed, size=(1280, 720)))
        for index in (25, 155):
            pixels, truth = scene.render(index)
            found = read(model, frame_of(pixels, model_size))
            total += len(truth.boxes)
            hits = [[box.label for box in found.boxes if overlap(box, true) > 0.6] for true in truth.boxes]
            right += sum(labels == [true.label] for labels, true in zip(hits, truth.boxes, strict=True))
            false += len(found.boxes) - sum(map(len, hits))
    assert total > 80
    assert right / total >= 0.95
    assert false <= 1


def mnist(count):
    if not MNIST.is_dir():
        pytest.skip(f"no MNIST at {MNIST}")
    with (
        gzip.open(MNIST / "train-images-idx3-ubyte.gz") as images,
        gzip.open(MNIST / "train-labels-idx1-ubyte.gz") as names,
    ):
        images.seek(16 + 54_000 * 784)
        names.seek(8 + 54_000)
        digits = np.frombuffer(images.read(count * 784), np.uint8).reshape(-1, 28, 28)
        return digits, np.frombuffer(names.read(count), np.uint8)


@pytest.mark.parametrize("invert", [False, True])
def test_images_of_mnist_are_read_unchanged(model, invert):
    digits, labels = mnist(300)
    read_as = [read(model, frame_of(255 - digit if invert else digit)).label for digit in digits]
    assert np.mean([label == str(name) for label, name in zip(read_as, labels, strict=True)]) >= 0.97


@pytest.mark.parametrize("quality", [95, 75, 50])
@pytest.mark.parametrize("shape", ["as it is", "inverted", "bordered", "enlarged"])
def test_a_jpeg_of_mnist_is_read_as_the_net_alone_reads_it(model, shape, quality):
    digits, labels = mnist(100)
    lost = 0
    for digit, name in zip(digits, labels, strict=True):
        pixels = {
            "as it is": digit,
            "inverted": 255 - digit,
            "bordered": np.pad(digit, 2),
            "enlarged": cv2.resize(digit, (56, 56)),
        }[shape]
        _, encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))
        pixels = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
        field = (
            pixels[2:-2, 2:-2] if shape == "bordered" else cv2.resize(pixels, (28, 28), interpolation=cv2.INTER_AREA)
        )
        field = 255 - field if shape == "inverted" else field
        alone = model.run(np.float32(field / 255)[None, None])
        lost += str(alone.argmax()) == str(name) != read(model, frame_of(pixels)).raw_label
    # The crop of a bordered JPEG is not quite the JPEG of the crop.
    assert lost <= (shape == "bordered")


def test_drawings_in_white_on_black_are_read_at_any_size(model):
    pixels = np.zeros((300, 300), np.uint8)
    write(pixels, "2", 90, 230, 170, darkness=255, thick=22)
    assert read(model, frame_of(pixels)).label == "2"


def test_blank_paper_has_no_digit(model):
    for pixels in (
        paper(),
        paper(light=(60, 240)),
        np.zeros((28, 28), np.uint8),
        paper(1, 1),
        paper(500, 1),
        paper(1, 500),
    ):
        found = read(model, frame_of(pixels))
        assert (found.label, found.raw_label, found.boxes, found.values) == ("", "", (), {"count": 0.0})


def test_marks_are_sorted_and_found_under_uneven_light():
    pixels = paper(light=(60, 240))
    for digit, x in (("7", 420), ("1", 100), ("4", 260)):
        # Ink reflects a share of the paper's light.
        ink = np.full_like(pixels, 255)
        write(ink, digit, x, 220, 90)
        pixels = (pixels * (ink / 255.0)).astype(np.uint8)
    lefts = [mark.rect[0] for mark in find_marks(pixels, 8)]
    assert lefts == pytest.approx([130, 268, 430], abs=25)


def test_ruled_lines_borders_specks_and_blobs_are_not_marks():
    pixels = paper()
    pixels[::40] = 185
    pixels[:, :60] = 70
    pixels[-30:] = 60
    cv2.circle(pixels, (200, 100), 2, 40, -1)
    cv2.line(pixels, (100, 300), (600, 310), 60, 3)
    cv2.rectangle(pixels, (420, 60), (560, 200), 30, -1)
    write(pixels, "5", 250, 200, 80)
    (mark,) = find_marks(pixels, 8)
    assert mark.rect[0] == pytest.approx(255, abs=12)


def test_a_five_with_a_loose_bar_is_one_mark():
    pixels = paper()
    cv2.polylines(pixels, [np.array([[300, 130], [300, 170], [340, 180], [340, 220], [295, 230]])], False, 50, 7)
    cv2.line(pixels, (300, 118), (350, 114), 50, 7)
    assert len(find_marks(pixels, 8)) == 1


def test_clutter_has_no_marks():
    noise = np.random.default_rng(0).integers(0, 256, (36, 64)).astype(np.uint8)
    assert find_marks(cv2.resize(noise, (640, 360), interpolation=cv2.INTER_CUBIC), 8) == []


def test_ink_is_sized_and_centred_as_in_mnist():
    for thick in (2, 5, 12):
        pixels = paper()
        write(pixels, "4", 280, 230, 120, thick=thick)
        (mark,) = find_marks(pixels, 8)
        rows, columns = np.nonzero(mark.ink > 0.2)
        assert mark.ink.shape == (28, 28)
        assert mark.ink.dtype == np.float32
        assert 0 <= mark.ink.min() <= mark.ink.max() <= 1
        assert 18 <= np.ptp(rows) + 1 <= 20
        assert np.ptp(columns) + 1 <= 20
        mass = mark.ink.sum()
        assert (mark.ink.sum(axis=1) @ np.arange(28)) / mass == pytest.approx(13.5, abs=0.6)
        assert (mark.ink.sum(axis=0) @ np.arange(28)) / mass == pytest.approx(13.5, abs=0.6)
        # Thin strokes are broadened to about those of MNIST.
        assert mass > 55


def turned(pixels, degrees, squeeze=1.0):
    """Return the image rotated about its centre, then scaled to `squeeze` times its width."""
    height, width = pixels.shape
    rotation = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    whole = cv2.warpAffine(pixels, rotation, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(whole, None, fx=squeeze, fy=1.0, interpolation=cv2.INTER_AREA)


def correlation(a, b):
    """Return the correlation of the ink of two marks."""
    return float(np.corrcoef(a.ink.ravel(), b.ink.ravel())[0, 1])


@pytest.mark.parametrize("squeeze", [1.0, 0.75])
@pytest.mark.parametrize("degrees", [-30, -12, 20, 30])
def test_a_tilted_row_is_turned_upright(degrees, squeeze):
    pixels = paper()
    for i, digit in enumerate("4725"):
        write(pixels, digit, 140 + 95 * i, 220, 70)
    upright = find_marks(pixels, 8)
    leaning = find_marks(turned(pixels, degrees, squeeze), 8, 1 / squeeze)
    assert len(upright) == len(leaning) == 4
    # Without the rotation, the correlation at 30 degrees is 0.3 to 0.6.
    correlations = list(map(correlation, leaning, upright))
    assert min(correlations) > 0.7
    assert np.mean(correlations) > 0.8


def test_a_digit_outside_a_row_is_not_turned():
    alone, others = paper(), paper()
    for pixels in (alone, others):
        write(pixels, "4", 300, 220, 70)
    # Too far away for a row.
    write(others, "7", 80, 100, 70)
    # Above the digit.
    write(others, "5", 320, 120, 70)
    marks = find_marks(others, 8)
    assert len(marks) == 3
    assert correlation(marks[1], find_marks(alone, 8)[0]) > 0.999


def test_the_number_of_marks_is_limited():
    pixels = paper(1200, 300)
    for i in range(10):
        write(pixels, "3", 40 + 110 * i, 180, 60)
    assert len(find_marks(pixels, 8)) == 8
    assert len(find_marks(pixels, 3)) == 3


@pytest.mark.parametrize("noise", [4, 10])
def test_marks_are_found_in_the_noise_of_a_dim_camera(noise):
    pixels = paper(light=(60, 240))
    ink = np.full_like(pixels, 255)
    for digit, x in (("7", 420), ("3", 60), ("4", 260)):
        write(ink, digit, x, 220, 90)
    pixels = pixels * (ink / 255.0) + np.random.default_rng(0).normal(0, noise, pixels.shape)
    lefts = [mark.rect[0] for mark in find_marks(np.clip(pixels, 0, 255).astype(np.uint8), 8)]
    assert lefts == pytest.approx([70, 268, 430], abs=25)


def test_larger_inputs_are_padded_and_normalised_by_the_card():
    card = ModelCard(net="lenet", task="digits", input_shape=(1, 32, 32), colour="GRAY", mean=(0.5,), std=(0.25,))
    pixels = paper()
    write(pixels, "8", 280, 230, 120)
    batch = np.full((8, 1, 32, 32), np.nan, np.float32)
    prepared = DigitsTask(card, TaskOptions()).prepare(frame_of(pixels), batch)
    assert prepared.count == 1
    (mark,) = find_marks(pixels, 8)
    assert np.allclose(batch[0, 0, 2:30, 2:30], (mark.ink - 0.5) / 0.25)
    assert np.all(batch[0, 0, :2] == -2)
    assert np.all(batch[0, 0, :, 30:] == -2)


def test_inputs_smaller_than_a_digit_raise_an_error():
    card = ModelCard(net="any", task="digits", input_shape=(1, 16, 16), colour="GRAY")
    with pytest.raises(ValueError, match="at least 28x28, not 16x16"):
        DigitsTask(card, TaskOptions())


def test_the_region_of_interest_limits_the_search_and_boxes_are_in_pixels_of_the_view():
    pixels = paper()
    write(pixels, "2", 100, 220, 90)
    write(pixels, "6", 450, 220, 90)
    task = DigitsTask(CARD, TaskOptions(smoothing=0, roi=(0.5, 0.0, 0.5, 1.0)))
    frame = frame_of(pixels, (320, 180))
    prepared = task.prepare(frame, np.zeros((8, 1, 28, 28), np.float32))
    logits = np.zeros((1, 10), np.float32)
    logits[0, 6] = 9
    found = task.decode(frame, [logits], prepared, 0)
    assert found.region == Box(320, 0, 640, 360)
    assert found.raw_label == "6"
    assert 440 < found.boxes[0].x0 < found.boxes[0].x1 < 540


def test_uncertain_boxes_are_dropped_and_the_number_is_smoothed():
    pixels = paper()
    for i, digit in enumerate("407"):
        write(pixels, digit, 120 + 150 * i, 220, 90)
    task = DigitsTask(CARD, TaskOptions(smoothing=0.3))
    frame = frame_of(pixels)
    prepared = task.prepare(frame, np.zeros((8, 1, 28, 28), np.float32))
    certain = np.zeros((3, 10), np.float32)
    certain[range(3), (4, 0, 7)] = 9
    uncertain = certain.copy()
    uncertain[1] = 0
    for step in range(20):
        found = task.decode(frame, [certain], prepared, step * 33_000_000)
    assert (found.label, found.raw_label, found.values["count"]) == ("407", "407", 3)
    assert [box.label for box in found.boxes] == ["4", "0", "7"]
    outlier = task.decode(frame, [uncertain], prepared, 20 * 33_000_000)
    assert (outlier.label, outlier.raw_label, outlier.values["count"]) == ("407", "47", 2)
    task.reset()
    assert task.decode(frame, [uncertain], prepared, 21 * 33_000_000).label == "47"
