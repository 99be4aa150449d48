import pytest

from camapp.core.errors import SettingsError
from camapp.core.settings import load_settings
from camapp.remote.commands import CommandRejected
from camapp.remote.web.commands import WebCommands
from tests.camapp.remote.web.stand_in import StandIn


class Desk:
    """Orders for one camera, and what visitors were told."""

    def __init__(self, tmp_path, reread=None, metrics=None, **settings):
        self.told = []
        self.camera = StandIn(tmp_path, **settings)
        self.state = tmp_path / "state"
        self.orders = WebCommands(
            [self.camera], self.state, metrics, reread, lambda camera, text, by: self.told.append((camera, text, by))
        )

    def __call__(self, order, **body):
        return self.orders.obey(order, "camera", body)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_pause_and_resume(desk):
    assert desk("pause", client="tab1") == {"paused": True}
    assert desk.camera.paused
    assert desk("resume") == {"paused": False}
    assert not desk.camera.paused
    assert desk.told == [("camera", "paused", "tab1"), ("camera", "resumed", "")]


def test_a_model_of_those_that_ship(desk):
    assert desk("model", model="lenet") == {"model": "lenet"}
    assert desk.camera.settings.model == "lenet"


@pytest.mark.parametrize("model", ["../../etc/passwd", "/etc/passwd", "", None, 3, ["mnist"], "nix"])
def test_no_other_file_can_be_named(desk, model):
    before = desk.camera.settings
    with pytest.raises(CommandRejected, match="there are"):
        desk("model", model=model)
    assert desk.camera.settings == before


def test_what_the_user_said_of_a_model_comes_and_goes_with_it(tmp_path):
    own = {"model": "own/net.npz", "net": "mnist", "labels": "a,b", "mean": "0.5", "smoothing": 1.0}
    desk = Desk(tmp_path, **own)
    desk("model", model="lenet")
    changed = desk.camera.settings
    assert (changed.net, changed.labels, changed.mean, changed.smoothing) == (None, None, None, 1.0)
    desk("model", model="net.npz")
    assert desk.camera.settings.net == "mnist"
    assert desk.camera.settings.labels == "a,b"


def test_a_model_that_cannot_run_is_refused_and_nothing_changes(desk):
    desk.camera.refuses = "no worker could run it"
    with pytest.raises(CommandRejected, match="not changed: no worker could run it"):
        desk("model", model="lenet")
    assert desk.told == []


def test_a_region_is_taken_up_kept_and_told(desk):
    assert desk("roi", roi=[0.25, 0.25, 0.5, 0.5], client="tab1") == {
        "roi": (0.25, 0.25, 0.5, 0.5),
        "kept": True,
        "why": "",
    }
    assert desk.camera.settings.roi == (0.25, 0.25, 0.5, 0.5)
    assert desk.told == [("camera", "region changed: 25%, 25%, 50%, 50%", "tab1")]
    assert "0.25" in (desk.state / "remembered.json").read_text()
    desk("roi", roi=None, client="tab2")
    assert desk.camera.settings.roi is None


@pytest.mark.parametrize(
    "roi",
    [[0, 0, 2, 1], [0.5, 0, 0.6, 1], [0, 0, 0, 0], [0, 0, 0.001, 1], [0, 0, 1], "all", 3, {"x": 1}, ["a"] * 4,
     [float("nan")] * 4, [True, False, None, 1], [-0.1, 0, 0.5, 0.5], [[0]] * 4],
)  # fmt: skip
def test_a_region_that_is_none_is_refused(desk, roi):
    with pytest.raises(CommandRejected):
        desk("roi", roi=roi)
    assert desk.camera.settings.roi is None
    assert not desk.state.exists()


def test_it_is_told_where_a_region_is_not_kept(tmp_path):
    settings = load_settings({"roi": "0,0,0.3,0.3"}, environment={})
    desk = Desk(tmp_path, reread=lambda _: settings)
    answer = desk("roi", roi=[0, 0, 0.5, 0.5])
    assert not answer["kept"]
    assert "configuration" in answer["why"]

    def broken(_):
        raise SettingsError("camapp.toml: unknown setting 'x'")

    assert "unknown setting" in Desk(tmp_path, reread=broken)("roi", roi=[0, 0, 0.5, 0.5])["why"]
    desk.state.chmod(0o755)
    (tmp_path / "file").write_text("")
    desk = Desk(tmp_path)
    desk.orders._state = tmp_path / "file"
    assert "cannot be kept" in desk("roi", roi=[0, 0, 0.5, 0.5])["why"]


def test_the_figures_on_the_image(desk):
    assert desk("hud", shown=False) == {"shown": False}
    assert desk.camera.hud_shown is False
    with pytest.raises(CommandRejected):
        desk("hud", shown="no")


def test_a_snapshot_is_saved_and_told(desk, tmp_path):
    (sink,) = desk.camera.image_sinks
    sink.start()
    assert not sink.wanted()
    desk("snapshot")
    assert sink.wanted()
    desk.camera.film()
    sink.stop()
    files = list((tmp_path / "snapshots").iterdir())
    assert len(files) == 1
    assert desk.told == [("camera", f"snapshot saved as {files[0].name}", "")]


def test_metrics_or_how_to_have_them(tmp_path, desk):
    with pytest.raises(CommandRejected, match="pip install"):
        desk("metrics")
    assert Desk(tmp_path, metrics=lambda: "up 1\n")("metrics") == {"text": "up 1\n"}
