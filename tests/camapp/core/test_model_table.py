"""The table of published models is whole, and a file counts as one of them only by its content."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest

from camapp.core import model_table, models
from camapp.core.model_table import known_file, known_models, labels_named
from camapp.core.models import NotFetched, load_file, load_model, model_choices, model_path
from camapp.core.settings import load_settings
from engine import nets
from engine.formats.npz import save_bundle
from engine.model_card import COLOURS, ModelCard


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SUDO_USER", raising=False)
    folder = tmp_path / "cache" / "camapp" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def tiny(cache, monkeypatch):
    """A published model of ten outputs, in the cache; its file holds the arrays only."""
    arrays = nets.build("cifar_small").parameters
    rng = np.random.default_rng(1)
    path = cache / "tiny-published.npz"
    np.savez(path, **{name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()})
    card = {"task": "classify", "labels": tuple("abcdefghij"), "mean": (0.1, 0.2, 0.3), "licence": "MIT"}
    known = dataclasses.replace(
        known_models()["resnet18"],
        name="tiny",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size=path.stat().st_size,
        card=card,
    )
    table = {**known_models(), "tiny": known}
    for module in (model_table, models):
        monkeypatch.setattr(module, "known_models", lambda: table)
    return known


@pytest.mark.parametrize("name", known_models())
def test_every_published_model_is_described_completely(name):
    known = known_models()[name]
    assert known.url.startswith("https://")
    assert known.url.endswith(f"/{known.file}")
    assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", known.sha256)
    assert known.size == 0 or 100_000 < known.size < 1 << 30
    assert known.fit in ("crop", "letterbox", "stretch")
    assert known.licence_url.startswith("https://")
    assert known.terms.endswith(".")
    assert known.mmac > 0
    assert all(0 < share < 1 for share in known.card["accuracy"].values())
    assert len(set(known.labels)) == len(known.labels) >= 1
    assert COLOURS[known.card["colour"]] == known.input_shape[0]
    ModelCard(name, input_shape=known.input_shape, **known.card)


def test_torchvision_s_names_and_nets_agree_with_the_table():
    for known in known_models().values():
        if "pytorch.org" in known.url:
            assert known.file.split("-")[1].startswith(known.sha256[:8])
            card = nets.default_card(known.name)
            assert (card.input_shape, card.mean, card.std) == (known.input_shape, known.card["mean"], known.card["std"])
            assert known.labels == labels_named("imagenet")
    names = [known.file for known in known_models().values()]
    assert len(set(names)) == len(names)


def test_class_names_come_by_the_name_of_their_data_set():
    assert len(labels_named("imagenet")) == 1000
    assert labels_named("imagenet")[281:283] == ("tabby", "tiger cat")
    assert len(labels_named("coco")) == 80
    assert labels_named("coco")[0] == "person"
    assert models.read_labels("imagenet") == labels_named("imagenet")
    assert labels_named("../models/table") == ()


def test_a_name_is_a_file_once_it_is_fetched(tiny, cache):
    assert model_path("tiny") == cache / tiny.file
    assert "tiny" in model_choices(load_settings({}, environment={}))
    tiny.path.unlink()
    assert "tiny" not in model_choices(load_settings({}, environment={}))
    with pytest.raises(NotFetched, match="'camapp models get tiny' fetches it"):
        model_path("tiny")


def test_a_file_of_that_name_in_the_working_folder_stays_that_file(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert str(model_path("tiny")) == "tiny"


def test_the_card_applies_to_the_file_wherever_it_lies(tiny, tmp_path):
    for path in (tiny.path, (tmp_path / tiny.file)):
        path.write_bytes(tiny.path.read_bytes())
        card = load_file(path).card
        assert card.labels == tiny.labels
        assert card.mean == (0.1, 0.2, 0.3)
        assert card.net == "cifar_small"
    assert load_model(load_settings({"model": "tiny", "labels": ",".join("ABCDEFGHIJ")}, environment={})).card.labels[
        0
    ] == "A"  # fmt: skip


def test_another_file_of_that_name_does_not_get_the_card(tiny, tmp_path, caplog):
    path = tmp_path / tiny.file
    path.write_bytes(tiny.path.read_bytes()[:-1] + b"x")
    assert known_file(path) is None
    assert "is not the published tiny" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"x"])
def test_a_changed_file_in_the_cache_is_refused_by_name(tiny, damage):
    whole = tiny.path.read_bytes()
    tiny.path.write_bytes(damage + whole[len(damage) :] if damage else whole + b"x")
    with pytest.raises(models.BadModel, match=r"not the published content|not on this machine"):
        load_model(load_settings({"model": "tiny"}, environment={}))


def test_under_sudo_the_user_s_cache_counts_where_root_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda text: text.replace("~pi", str(tmp_path / "pi")))
    folders = model_table._cache_folders({"XDG_CACHE_HOME": str(tmp_path / "root"), "SUDO_USER": "pi"})
    assert folders == [tmp_path / "root/camapp/models", tmp_path / "pi/.cache/camapp/models"]
    monkeypatch.setattr(model_table, "_cache_folders", lambda: folders)
    known = known_models()["resnet18"]
    assert known.path.parent == folders[0]
    folders[1].mkdir(parents=True)
    (folders[1] / known.file).write_bytes(b"")
    assert known.path.parent == folders[1]


def test_torchvision_s_nets_have_imagenet_s_class_names_without_a_file(tmp_path):
    shapes = nets.build("squeezenet1_1").parameters
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    assert load_file(tmp_path / "a.npz").card.labels == labels_named("imagenet")
    few = {name: array[:5] if name.startswith("classifier.1.") else array for name, array in arrays.items()}
    np.savez(tmp_path / "b.npz", **few)
    assert load_file(tmp_path / "b.npz").card.labels == ()
    save_bundle(tmp_path / "c.npz", arrays, ModelCard("squeezenet1_1", labels=tuple(map(str, range(1000)))))
    assert load_file(tmp_path / "c.npz").card.labels[0] == "0"
