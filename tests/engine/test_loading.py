"""Model files: whole ones load with or without a card, and each kind of damage gives one clear ModelError."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ModelCard, ModelError, nets
from engine.formats import npz
from engine.graph import Array
from tests.engine import net_cases


@pytest.fixture
def arrays() -> dict[str, Array]:
    return net_cases.weights("mnist")


@pytest.fixture
def bundle(tmp_path: Path, arrays: dict[str, Array]) -> Path:
    card = ModelCard("mnist", "digits", (1, 28, 28), colour="GRAY", labels=tuple("0123456789"), accuracy={"test": 0.98})
    npz.save_bundle(tmp_path / "mnist.npz", arrays, card)
    return tmp_path / "mnist.npz"


def write_entries(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def npy(array: Array, **changes: object) -> bytes:
    """A .npy file with a header that may be false."""
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **changes}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def bundle_with_card(path: Path, arrays: dict[str, Array], text: str) -> Path:
    np.savez(path, **arrays, **{npz.CARD: np.array(text)})
    return path


def test_bare_arrays_load_by_name_of_the_net_or_by_their_shapes(tmp_path: Path, arrays: dict[str, Array]) -> None:
    np.savez(tmp_path / "model.npz", **arrays)
    image = net_cases.images("mnist")
    named, recognised = engine.load(tmp_path / "model.npz", net="mnist"), engine.load(str(tmp_path / "model.npz"))
    assert named.card == recognised.card == nets.default_card("mnist")
    np.testing.assert_array_equal(named.run(image), recognised.run(image))


def test_float64_compressed_and_fortran_ordered_arrays_load_alike(tmp_path: Path, arrays: dict[str, Array]) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    odd = {name: np.asfortranarray(array.astype(np.float64)) for name, array in arrays.items()}
    np.savez_compressed(tmp_path / "b.npz", **odd)
    image = net_cases.images("mnist")
    np.testing.assert_array_equal(
        engine.load(tmp_path / "a.npz").run(image), engine.load(tmp_path / "b.npz").run(image)
    )


def test_num_batches_tracked_is_ignored(tmp_path: Path, arrays: dict[str, Array]) -> None:
    np.savez(tmp_path / "a.npz", **arrays, **{"bn1.num_batches_tracked": np.array(7)})
    assert engine.load(tmp_path / "a.npz").card.net == "mnist"


def test_bundle_keeps_card_and_arrays(bundle: Path, arrays: dict[str, Array]) -> None:
    model = engine.load(bundle)
    assert model.card.accuracy == {"test": 0.98}
    assert model.card.sha256 == npz.digest(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(model.graph.initializers[name], array)


def test_bundle_is_an_ordinary_npz(bundle: Path, arrays: dict[str, Array]) -> None:
    with np.load(bundle, allow_pickle=False) as file:
        assert set(file.files) == {*arrays, npz.CARD}
        assert json.loads(str(file[npz.CARD]))["net"] == "mnist"


def test_saving_replaces_the_file_whole_or_not_at_all(bundle: Path, arrays: dict[str, Array]) -> None:
    before = bundle.read_bytes()
    with pytest.raises(ValueError, match="boom"):
        npz.save_bundle(bundle, {"w": Exploding()}, nets.default_card("mnist"))  # type: ignore[dict-item]
    assert bundle.read_bytes() == before
    assert os.listdir(bundle.parent) == [bundle.name]


class Exploding:
    def __array__(self, *_: object, **__: object) -> Array:
        raise ValueError("boom")


def test_other_net_than_the_cards_is_refused(bundle: Path) -> None:
    with pytest.raises(ModelError, match="its card names net 'mnist', but net 'lenet' was requested"):
        engine.load(bundle, net="lenet")


def test_unrecognised_arrays_ask_for_the_net(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", weight=np.ones(3))
    with pytest.raises(ModelError, match=r"x\.npz: .*name it with --net, one of mnist, digits"):
        engine.load(tmp_path / "x.npz")


def test_missing_extra_and_misshapen_parameters_are_named(tmp_path: Path, arrays: dict[str, Array]) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{("head" if name == "fc.bias" else name): array for name, array in arrays.items()})
    with pytest.raises(ModelError, match=r"missing fc\.bias; not known head"):
        engine.load(path, net="mnist")
    np.savez(path, **{**arrays, "fc.bias": np.zeros(9)})
    with pytest.raises(ModelError, match=r"parameter 'fc\.bias' of net 'mnist': expected shape \(10,\), found \(9,\)"):
        engine.load(path, net="mnist")
    np.savez(path, **{**arrays, "fc.bias": np.zeros(10, bool)})
    with pytest.raises(ModelError, match="expected numbers, found dtype bool"):
        engine.load(path, net="mnist")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, arrays: dict[str, Array], bad: float) -> None:
    arrays["fc.bias"][3] = bad
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ModelError, match=r"x\.npz: parameter 'fc\.bias' holds NaN or infinity"):
        engine.load(tmp_path / "x.npz")


def test_other_suffixes_name_what_is_supported(tmp_path: Path) -> None:
    for name in ("model.h5", "model"):
        with pytest.raises(ModelError, match=r"supported are \.npz, \.safetensors, \.pth, \.pt, .*\.onnx and folders"):
            engine.load(tmp_path / name)


def test_a_missing_file_and_a_folder_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.npz: cannot read the model: No such file"):
        engine.load(tmp_path / "gone.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ModelError, match=r"folder\.npz: cannot read the model: Is a directory"):
        engine.load(tmp_path / "folder.npz")


@pytest.mark.parametrize("keep", [0, 1, 100, 1000, -1])
def test_truncated_files_are_refused(bundle: Path, keep: int) -> None:
    bundle.write_bytes(bundle.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"mnist\.npz: not a \.npz file, or damaged"):
        engine.load(bundle)


def test_no_flipped_byte_goes_unnoticed_or_raises_anything_else(bundle: Path) -> None:
    whole = bundle.read_bytes()
    image = net_cases.images("mnist", 1)
    expected = engine.load(bundle).run(image)
    state = np.random.RandomState(1)
    refused = 0
    for place in state.randint(0, len(whole), 300):
        bundle.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << state.randint(8))]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(engine.load(bundle).run(image), expected)  # a harmless byte (a time, say)
        except ModelError:
            refused += 1
    assert refused > 200


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", w=np.array([{"a": 1}], dtype=object))
    with pytest.raises(
        ModelError, match=r"array 'w': expected numbers, found dtype object \(pickles are never loaded\)"
    ):
        engine.load(tmp_path / "x.npz", net="mnist")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.npz", {"w.npy": npy(np.zeros(20 << 20, np.uint8))}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelError, match="a zip bomb, not weights"):
        engine.load(path)


def test_a_header_that_claims_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "x.npz", {"w.npy": npy(np.zeros(4, np.float32), shape=(1 << 40, 1 << 10))})
    with pytest.raises(ModelError, match=r"array 'w': shape \(1099511627776, 1024\) of float32 needs .* found 16"):
        engine.load(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"readme.txt": b"hello"}, "entry 'readme.txt' is not an array"),
        ({"w.npy": b"hello"}, "not a .npz file, or damaged"),
        ({"w.npy": b"\x93NUMPY\x09\x00"}, "damaged|version"),
        ({"w.npy": npy(np.zeros(4, np.float32), descr="|V8")}, "expected numbers, found dtype"),
        ({"w.npy": npy(np.zeros(4, np.float32), shape=(-4,))}, "found 16"),
        ({"w.npy": npy(np.array("text"))}, "array 'w': expected numbers, found text"),
        ({"__card__.npy": npy(np.zeros(4, np.float32))}, "'__card__': expected one string"),
    ],
)
def test_invalid_entries_are_refused(tmp_path: Path, entries: dict[str, bytes], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        engine.load(write_entries(tmp_path / "x.npz", entries))


def test_the_same_array_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("w.npy", npy(np.zeros(4)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("w.npy", npy(np.zeros(4)))
    with pytest.raises(ModelError, match="the same entry twice"):
        engine.load(tmp_path / "x.npz")


def test_arrays_that_are_not_the_cards_are_refused(tmp_path: Path, arrays: dict[str, Array]) -> None:
    card = npz.save_bundle(tmp_path / "x.npz", arrays, nets.default_card("mnist"))
    arrays["fc.bias"][0] += 1
    path = bundle_with_card(tmp_path / "x.npz", arrays, card.to_json())
    with pytest.raises(ModelError, match=r"expected sha256 .*, found"):
        engine.load(path)


CARD: dict[str, Any] = {"net": "mnist", "task": "digits", "input_shape": [1, 28, 28], "colour": "GRAY"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nett": "mnist"}, "unknown key 'nett'; allowed are net, task"),
        ({"net": 7}, "'net' is 7; allowed is the name of a net"),
        ({"net": "vgg"}, "unknown net 'vgg'; known are mnist"),
        ({"input_shape": [28, 28]}, "'input_shape' is .28, 28.; allowed is three whole numbers"),
        ({"input_shape": [1, 28.0, 28]}, "'input_shape'"),
        ({"input_shape": [1, -28, 28]}, "'input_shape'"),
        ({"input_shape": [1, True, 28]}, "'input_shape'"),
        ({"input_shape": [3, 28, 28]}, "allowed is 1 channels for colour GRAY"),
        ({"input_shape": [1, 32, 32]}, r"net 'mnist' takes \(1, 28, 28\), but its card has \(1, 32, 32\)"),
        ({"mean": [float("nan")]}, "'mean' is"),
        ({"mean": "0.5"}, "'mean' is '0.5'; allowed is finite numbers"),
        ({"mean": [0.5, 0.5]}, "'mean' is .* allowed is 1 numbers"),
        ({"std": [0]}, "'std' is .* allowed is numbers above 0"),
        ({"std": [float("inf")]}, "'std' is"),
        ({"colour": "CMYK"}, "'colour' is 'CMYK'; allowed is GRAY, RGB, BGR"),
        ({"colour": ["RGB"]}, "'colour' is"),
        ({"labels": ["0", 1]}, "'labels' is"),
        ({"labels": ["yes", "no"]}, "net 'mnist' has 10 outputs, but 2 labels are given"),
        ({"accuracy": {"test": 98}}, "'accuracy' is .* shares from 0 to 1"),
        ({"accuracy": [0.98]}, "'accuracy' is"),
        ({"rejection": {"1": 4.0}}, "'rejection' is .* shares between 0 and 1"),
        ({"rejection": {"0.01": "high"}}, "'rejection' is"),
        ({"licence": None}, "'licence' is None; allowed is a string"),
    ],
)
def test_a_card_with_a_bad_value_is_refused_with_key_and_value(
    tmp_path: Path, arrays: dict[str, Array], change: dict[str, Any], message: str
) -> None:
    path = bundle_with_card(tmp_path / "x.npz", arrays, json.dumps({**CARD, **change}))
    with pytest.raises(ModelError, match=rf"x\.npz: .*{message}"):
        engine.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("{}", "key 'net' is missing"),
        ('{"net": "mnist", "net": "lenet"}', "key 'net' appears twice"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_card_that_is_none_is_refused(tmp_path: Path, arrays: dict[str, Array], text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        engine.load(bundle_with_card(tmp_path / "x.npz", arrays, text))


def test_card_goes_through_json_unchanged() -> None:
    card = ModelCard(
        "cifar10",
        input_shape=(3, 32, 32),
        mean=(0.5, 0.25, 0.125),
        std=(0.5, 0.5, 0.5),
        colour="BGR",
        labels=("Bär", "猫"),
        accuracy={"test": 0.75},
        recipe="30 epochs",
        licence="MIT",
    )
    assert ModelCard.from_json(card.to_json()) == card


def test_card_without_mean_and_std_neither_shifts_nor_scales() -> None:
    card = ModelCard("mnist", input_shape=(1, 28, 28), colour="GRAY")
    assert (card.mean, card.std) == ((0.0,), (1.0,))
