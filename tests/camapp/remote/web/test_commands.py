import json

import pytest

from camapp.core.errors import SettingsError
from camapp.core.settings import load_settings
from camapp.remote.commands import CommandRejected
from camapp.remote.web.interface import WebInterface, places_record
from camapp.tasks.collect import LabelBoard
from tests.camapp.remote.web.stand_in import StandIn


class Page:
    """Sends commands to one camera, and records the notices to visitors."""

    def __init__(self, tmp_path, reread=None, metrics=None, state="state", **settings):
        self.notices = []
        self.camera = StandIn(tmp_path, **settings)
        self.state = tmp_path / state
        self.interface = WebInterface([self.camera], "127.0.0.1:0", state=self.state, metrics=metrics, reread=reread)
        self.interface._send = lambda message: self.notices.append((message["camera"], message["text"], message["by"]))
        self.interface.attach()

    def __call__(self, command, **body):
        return self.interface.run_command(command, "camera", body)


@pytest.fixture
def page(tmp_path):
    return Page(tmp_path)


def test_pause_and_resume_are_run_and_announced(page):
    assert page("pause", client="tab1") == {"paused": True}
    assert page.camera.paused
    assert page("resume") == {"paused": False}
    assert not page.camera.paused
    assert page.notices == [("camera", "paused", "tab1"), ("camera", "resumed", "")]


def test_a_shipped_model_is_chosen_by_name(page):
    assert page("model", model="lenet") == {"model": "lenet"}
    assert page.camera.settings.model == "lenet"


@pytest.mark.parametrize("model", ["../../etc/passwd", "/etc/passwd", "", None, 3, ["mnist"], "nix"])
def test_no_other_file_can_be_chosen(page, model):
    before = page.camera.settings
    with pytest.raises(CommandRejected, match="there are"):
        page("model", model=model)
    assert page.camera.settings == before


def test_options_of_a_model_are_used_with_that_model_only(tmp_path):
    own = {"model": "own/net.npz", "net": "mnist", "labels": "a,b", "mean": "0.5", "smoothing": 1.0}
    page = Page(tmp_path, **own)
    page("model", model="lenet")
    changed = page.camera.settings
    assert (changed.net, changed.labels, changed.mean, changed.smoothing) == (None, None, None, 1.0)
    page("model", model="net.npz")
    assert page.camera.settings.net == "mnist"
    assert page.camera.settings.labels == "a,b"


def test_a_model_that_cannot_run_is_rejected_and_nothing_changes(page):
    page.camera.refuses = "no worker could run it"
    with pytest.raises(CommandRejected, match="not changed: no worker could run it"):
        page("model", model="lenet")
    assert page.notices == []


def test_a_region_is_applied_kept_and_announced(page):
    assert page("roi", roi=[0.25, 0.25, 0.5, 0.5], client="tab1") == {
        "roi": (0.25, 0.25, 0.5, 0.5),
        "kept": True,
        "why": "",
    }
    assert page.camera.settings.roi == (0.25, 0.25, 0.5, 0.5)
    assert page.notices == [("camera", "region changed: 0.25,0.25,0.5,0.5", "tab1")]
    assert "0.25" in (page.state / "remembered.json").read_text()
    page("roi", roi=None, client="tab2")
    assert page.camera.settings.roi is None


@pytest.mark.parametrize(
    "roi",
    [[0, 0, 2, 1], [0.5, 0, 0.6, 1], [0, 0, 0, 0], [0, 0, 0.001, 1], [0, 0, 1], "all", 3, {"x": 1}, ["a"] * 4,
     [float("nan")] * 4, [True, False, None, 1], [-0.1, 0, 0.5, 0.5], [[0]] * 4],
)  # fmt: skip
def test_an_invalid_region_is_rejected(page, roi):
    with pytest.raises(CommandRejected):
        page("roi", roi=roi)
    assert page.camera.settings.roi is None
    assert not page.state.exists()


def test_the_answer_names_the_reason_if_a_region_is_not_kept(tmp_path):
    settings = load_settings({"roi": "0,0,0.3,0.3"}, environment={})
    page = Page(tmp_path, reread=lambda _: settings)
    answer = page("roi", roi=[0, 0, 0.5, 0.5])
    assert not answer["kept"]
    assert "configuration" in answer["why"]

    def broken(_):
        raise SettingsError("camapp.toml: unknown setting 'x'")

    assert "unknown setting" in Page(tmp_path, reread=broken)("roi", roi=[0, 0, 0.5, 0.5])["why"]
    (tmp_path / "file").write_text("")
    assert "cannot be kept" in Page(tmp_path, state="file")("roi", roi=[0, 0, 0.5, 0.5])["why"]


def test_the_statistics_on_the_image_are_switched_off(page):
    assert page("hud", shown=False) == {"shown": False}
    assert page.camera.hud_shown is False
    with pytest.raises(CommandRejected):
        page("hud", shown="no")


def test_the_page_chooses_the_label_to_collect_and_saves_images_of_it(page):
    page.camera.board = board = LabelBoard({"cup": 0, "pen": 3})
    requests = []
    board.request = lambda: requests.append(board.label)
    assert page("label", label="pen") == {"label": "pen"}
    assert page("snapshot") == {"folder": "pen"}
    assert requests == ["pen"]
    with pytest.raises(CommandRejected, match="no such label; there are cup, pen"):
        page("label", label="fork")
    page.camera.board = None
    with pytest.raises(CommandRejected, match="labels are those of 'camapp collect'"):
        page("label", label="pen")


def test_a_snapshot_is_saved_and_announced(page, tmp_path):
    sink = page.camera.image_sinks[0]
    sink.start()
    assert not sink.wanted()
    page("snapshot")
    assert sink.wanted()
    page.camera.film()
    sink.stop()
    files = list((tmp_path / "snapshots").iterdir())
    assert len(files) == 1
    assert page.notices == [("camera", f"snapshot saved as {files[0].name}", "")]


def test_metrics_are_rendered_or_the_answer_names_the_package(tmp_path, page):
    with pytest.raises(CommandRejected, match="pip install"):
        page("metrics")
    assert Page(tmp_path, metrics=lambda: "up 1\n")("metrics") == {"text": "up 1\n"}


CORNERS = [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]


@pytest.fixture
def finder(tmp_path):
    """The page of a camera whose model finds objects."""
    page = Page(tmp_path)
    page.camera.task = "detect"
    return page


def test_a_zone_and_a_line_are_set_renamed_kept_and_deleted(finder):
    porch, yard = "porch=0.1000,0.1000 0.9000,0.1000 0.5000,0.9000", "yard=0.0000,0.0000 1.0000,0.0000 1.0000,1.0000"
    assert finder("zone", name="porch", points=CORNERS, client="tab1") == {"zone": (porch,), "kept": True, "why": ""}
    finder("zone", name="yard", points=[[0, 0], [1, 0], [1, 1]])
    finder("line", name="gate", points=[[0, 0.5], [1, 0.5]])
    assert finder.camera.settings.zone == (porch, yard)
    assert finder.camera.settings.line == ("gate=0.0000,0.5000,1.0000,0.5000",)
    renamed = finder("zone", name="door", was="porch", points=CORNERS)["zone"]
    assert renamed == (porch.replace("porch", "door"), yard), "it keeps its place"
    kept = json.loads((finder.state / "remembered.json").read_text())["cameras"]["camera"]
    assert kept == {"zone": [*renamed], "line": ["gate=0.0000,0.5000,1.0000,0.5000"]}
    finder("zone", name="door", points=None)
    finder("line", name="gate", points=None)
    assert (finder.camera.settings.zone, finder.camera.settings.line) == ((yard,), ())
    assert finder.notices[0] == ("camera", "zone porch changed", "tab1")
    assert finder.notices[-1] == ("camera", "line gate deleted", "")


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("zone", {"name": "a b", "points": CORNERS}, "a name is letters, digits"),
        ("zone", {"name": "", "points": CORNERS}, "a name is"),
        ("zone", {"points": CORNERS}, "a name is text"),
        ("zone", {"name": 3, "points": CORNERS}, "a name is text"),
        ("zone", {"name": "x", "was": [], "points": CORNERS}, "a name is text"),
        ("zone", {"name": "x", "points": CORNERS[:2]}, "2 corners"),
        ("zone", {"name": "x", "points": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "crosses or touches itself"),
        ("zone", {"name": "x", "points": [[0, 0], [2, 1], [1, 0]]}, "leaves the image"),
        ("zone", {"name": "x", "points": [[0, 0], [float("nan"), 1], [1, 0]]}, "leaves the image"),
        ("zone", {"name": "x", "points": [[0, 0], ["0", 1], [1, 0]]}, "points are a list"),
        ("zone", {"name": "x", "points": "0,0 1,1 1,0"}, "points are a list"),
        ("zone", {"name": "x"}, "there is no zone 'x'"),
        ("zone", {"name": "yard", "was": "porch", "points": CORNERS}, "there is a zone 'yard' already"),
        ("line", {"name": "x", "points": CORNERS}, "two ends"),
        ("line", {"name": "x", "points": [[0, 0], [0, 0]]}, "begins where it ends"),
        ("line", {"name": "x", "points": None}, "there is no line 'x'"),
    ],
)
def test_a_zone_that_is_not_allowed_is_rejected_and_nothing_changes(finder, kind, body, why):
    for name in ("porch", "yard"):
        finder("zone", name=name, points=CORNERS)
    before = finder.camera.settings
    with pytest.raises(CommandRejected, match=why):
        finder(kind, **body)
    assert finder.camera.settings is before


def test_a_model_that_finds_no_objects_has_no_zones(page):
    with pytest.raises(CommandRejected, match="choose a model that finds objects"):
        page("zone", name="porch", points=CORNERS)


def test_zones_of_the_configuration_outrank_those_of_the_page(tmp_path):
    own = load_settings({"zone": ["own=0,0 1,0 1,1"]}, environment={})
    page = Page(tmp_path, reread=lambda name: own)
    page.camera.task = "detect"
    result = page("zone", name="porch", points=CORNERS)
    assert not result["kept"]
    assert "the configuration sets another zone" in result["why"]


def test_zones_and_lines_are_in_the_status_of_the_page():
    found = places_record(load_settings({"zone": "porch=0,0 1,0 1,1", "line": "gate=0,0,1,0.5"}, environment={}))
    assert json.loads(json.dumps(found)) == {
        "zones": [{"name": "porch", "points": [[0, 0], [1, 0], [1, 1]]}],
        "lines": [{"name": "gate", "points": [[0, 0], [1, 0.5]]}],
    }
