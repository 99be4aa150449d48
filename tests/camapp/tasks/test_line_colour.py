"""`--line-colour`: what the net is shown, and what it finds then."""

import math

import numpy as np
import pytest

import camapp
from camapp.core.errors import SettingsError
from camapp.core.frames import Frame, Shot
from camapp.core.ground_camera import GroundCamera
from camapp.core.image import Image, Layout
from camapp.core.image_ops import Preprocessor
from camapp.scenes.course import Stripe, bending
from camapp.scenes.photograph import Look, photograph
from camapp.tasks.line_colour import WHITE_OF
from camapp.tasks.task import TaskOptions, create_task
from engine import nets
from engine.model_card import ModelCard

CARD = nets.default_card("track")
SIZE = (320, 240)
PAINT = {"white": (240, 240, 235), "yellow": (226, 195, 50), "black": (20, 20, 20), "orange": (240, 110, 30)}
OTHERS = {"grey": (110, 110, 110), "grass": (84, 112, 58), "red": (200, 45, 40), "blue": (40, 80, 180)}


@pytest.mark.parametrize("light", [0.4, 1.0])
@pytest.mark.parametrize("colour", WHITE_OF)
def test_only_lines_of_the_colour_are_bright(colour, light):
    wanted = {"white", "yellow"} if colour == "any" else {colour}
    shades = {name: np.array(rgb) for name, rgb in (PAINT | OTHERS).items() if name != "orange"}
    pixels = np.array(list(shades.values()), np.float32).T[:, None] / 255 * np.float32(light)
    shown = np.broadcast_to(WHITE_OF[colour](pixels), pixels.shape)
    assert shown.dtype == np.float32
    assert shown.min() >= 0
    assert shown.max() <= 1
    levels = dict(zip(shades, shown[:, 0].mean(axis=0), strict=True))
    darkest = min(levels[name] for name in wanted)
    assert darkest > max(level for name, level in levels.items() if name not in wanted) + 0.12


def prepared(pixels, card=CARD, **options):
    task = create_task("track", card, TaskOptions(**options))
    image = Image.of(pixels, Layout.RGB)
    frame = Frame(0, Shot(image, image))
    batch = np.zeros((1, *card.input_shape), np.float32)
    return task, frame, batch, task.prepare(frame, batch)


def noise(seed=0):
    return np.random.default_rng(seed).integers(40, 200, (120, 160, 3), dtype=np.uint8)


def test_white_lines_are_shown_as_they_are():
    _, frame, batch, _ = prepared(noise())
    plain = np.zeros(CARD.input_shape, np.float32)
    Preprocessor(CARD, "stretch", None)(frame.model_view, plain)
    assert (batch[0] == plain).all()
    assert (prepared(noise(), line_colour="yellow")[2][0] != plain).any()


@pytest.mark.parametrize("colour", WHITE_OF)
def test_the_order_of_the_channels_does_not_matter(colour):
    fields = {"net": "track", "task": "track", "input_shape": CARD.input_shape, "mean": CARD.mean, "std": CARD.std}
    rgb = prepared(noise(), ModelCard(**fields, colour="RGB"), line_colour=colour)[2]
    bgr = prepared(noise(), ModelCard(**fields, colour="BGR"), line_colour=colour)[2]
    # A grey image has no order.
    assert rgb[0] == pytest.approx(bgr[0, ::-1], abs=1e-5)


@pytest.mark.parametrize("colour", WHITE_OF)
def test_a_covered_lens_is_black_whatever_is_looked_for(colour):
    nothing = np.full((1, 20, 20, 20), -9.0, np.float32)
    for pixels, reason in ((np.zeros((120, 160, 3), np.uint8), "the image is black"), (noise(), "no ")):
        task, frame, _, done = prepared(pixels, line_colour=colour)
        found = task.decode(frame, [nothing], done, 0)
        assert found.label.startswith(f"no lane: {reason}")
    assert found.label.startswith(f"no lane: no {'white or yellow' if colour == 'any' else colour} line in sight")


def test_a_model_without_colours_is_refused():
    card = ModelCard("grey", "track", (1, 160, 160), (0.5,), (0.2,), "GRAY")
    with pytest.raises(ValueError, match="--line-colour yellow needs a model that takes colours"):
        create_task("track", card, TaskOptions(line_colour="yellow"))
    with pytest.raises(SettingsError, match="--line-colour = 'pink' is not allowed"):
        camapp.load("track", line_colour="pink")


@pytest.fixture(scope="module")
def floor():
    """Photographs of a lane with lines of three colours on a grey floor."""
    course = bending(20.0, np.zeros(2), (-0.4, 0.4), back=1.0)
    camera = GroundCamera.of(SIZE, 0.3, math.radians(20), math.radians(75))

    def taken(colour):
        stripes = [Stripe(course.beside(at), 0.05, PAINT[colour]) for at in course.borders]
        return photograph(stripes, Look(ground=(125.0,) * 3, grain=3.0, grain_size=0.01, reach=4.0), camera)

    return {colour: taken(colour) for colour in ("white", "yellow", "black")}


@pytest.mark.parametrize(
    ("line_colour", "seen"),
    [("white", {"white"}), ("yellow", {"yellow"}), ("black", {"black"}), ("any", {"white", "yellow"})],
)
def test_the_net_finds_the_lines_of_the_colour_alone(floor, line_colour, seen):
    model = camapp.load("track", line_colour=line_colour)
    found = {colour: model.predict(image) for colour, image in floor.items()}
    assert {colour for colour, one in found.items() if len(one.lines) == 2 and one.label == "lane"} == seen
    assert {colour for colour, one in found.items() if one.lines} == seen
