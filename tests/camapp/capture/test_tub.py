"""Donkeycar's tubs are played with the person's steering as truth; what is broken in one is counted and left out."""

import json
import logging
import time

import cv2
import numpy as np
import pytest

from camapp.capture.source import EndOfStream, SourceOptions, build_source, create_source, local_path, scheme_of
from camapp.capture.tub import TubSource
from camapp.core.errors import PermanentSourceError, SourceDenied
from camapp.core.models import load_model
from camapp.core.settings import load_settings

START_MS = 1_700_000_000_000


def record(index, **more):
    image = f"{index}_cam_image_array_.jpg"
    values = {"user/angle": index / 10, "user/mode": "user", "user/throttle": 0.5}
    return {"_index": index, "_timestamp_ms": START_MS + 50 * index, "cam/image_array": image, **values, **more}


def write_tub(folder, records, deleted=(), per_catalog=4):
    """Write a tub of version 2 as donkeycar does; each image's brightness is 10 times its index."""
    (folder / "images").mkdir(parents=True)
    for number in range(0, len(records), per_catalog):
        lines = [json.dumps(item, sort_keys=True) + "\n" for item in records[number : number + per_catalog]]
        (folder / f"catalog_{number // per_catalog}.catalog").write_text("".join(lines))
    for item in records:
        cv2.imwrite(
            str(folder / "images" / item["cam/image_array"]), np.full((12, 16, 3), 10 * item["_index"], np.uint8)
        )
    paths = [path.name for path in sorted(folder.glob("*.catalog"))]
    last = {"paths": paths, "current_index": len(records), "max_len": per_catalog, "deleted_indexes": list(deleted)}
    parts = [["cam/image_array", "user/angle"], ["image_array", "float"], {}, {"created_at": 1.0}, last]
    (folder / "manifest.json").write_text("".join(json.dumps(part) + "\n" for part in parts))
    return folder


def opened(folder, **options):
    source = create_source(f"tub:{folder}", SourceOptions(**options))
    source.open()
    return source


def shots(source):
    found = []
    try:
        while True:
            found.append(source.read(1.0))
    except EndOfStream:
        source.close()
        return found


def indexes(source):
    return [int(shot.name.partition("_")[0]) for shot in shots(source)]


def test_records_play_in_order_with_the_steering_as_truth(tmp_path):
    source = opened(write_tub(tmp_path / "tub", [record(index) for index in range(10)]))
    assert isinstance(source, TubSource)
    assert not source.live
    assert source.fps == pytest.approx(20)
    assert source.describe() == f"tub {tmp_path / 'tub'}, 10 records"
    played = shots(source)
    assert [round(shot.view.data.mean() / 10) for shot in played] == list(range(10))
    assert [shot.truth.values for shot in played] == [{"angle": index / 10, "throttle": 0.5} for index in range(10)]
    assert [shot.moment_ns for shot in played] == [50_000_000 * index for index in range(10)]


def test_deleted_records_are_left_out(tmp_path):
    folder = write_tub(tmp_path / "tub", [record(index) for index in range(9)], deleted=[0, 5, 6])
    assert indexes(opened(folder)) == [1, 2, 3, 4, 7, 8]


def test_damage_costs_records_and_is_reported_once(tmp_path, caplog):
    folder = write_tub(tmp_path / "tub", [record(index) for index in range(10)], deleted=[9])
    (folder / "images" / record(2)["cam/image_array"]).unlink()
    for index in (3, 8):
        (folder / "images" / record(index)["cam/image_array"]).write_bytes(b"\xff\xd8\xffbroken")
    lines = (folder / "catalog_1.catalog").read_text().splitlines(keepends=True)
    outside = json.dumps(record(6) | {"cam/image_array": "../../secret.png"}) + "\n"
    (folder / "catalog_1.catalog").write_text("".join([lines[0], '{"_index": 5, "cam/\n', outside, "[7]\n"]))
    with (folder / "catalog_2.catalog").open("a") as file:
        file.write('{"_index": 10, "_times')
    with caplog.at_level(logging.WARNING):
        assert indexes(opened(folder)) == [0, 1, 4]
    first, second, third = caplog.messages
    assert "4 broken lines; 1 missing images; the other 5 records are played" in first
    assert "skipped" in second
    assert "2 damaged images were left out" in third


def test_a_damaged_manifest_plays_deleted_records_and_says_so(tmp_path, caplog):
    folder = write_tub(tmp_path / "tub", [record(index) for index in range(3)], deleted=[1])
    (folder / "manifest.json").write_text('["cam/image_array"]\n["ima')
    with caplog.at_level(logging.WARNING):
        assert indexes(opened(folder)) == [0, 1, 2]
    assert "manifest.json is damaged" in caplog.text
    (folder / "manifest.json").unlink()
    assert indexes(opened(folder)) == [0, 1, 2]


def test_odd_values_are_no_truth_and_odd_times_become_usual_ones(tmp_path):
    odd = [{}, {"user/angle": "left"}, {"user/angle": float("nan"), "_timestamp_ms": START_MS - 10**7}, {}, {}]
    records = [record(index, **more) for index, more in enumerate(odd)]
    del records[0]["user/angle"], records[0]["user/throttle"]
    records[4]["_timestamp_ms"] += 10**9
    played = shots(opened(write_tub(tmp_path / "tub", records)))
    assert [shot.truth and sorted(shot.truth.values) for shot in played] == [
        *(None, ["throttle"], ["throttle"]),
        *(["angle", "throttle"], ["angle", "throttle"]),
    ]
    # Backwards: the usual step. Far ahead: a second, after which filters start anew.
    assert np.diff([shot.moment_ns for shot in played]).tolist() == [50_000_000, 50_000_000, 10**9, 10**9]


def test_a_tub_of_version_1_is_read_too(tmp_path):
    for index in range(11):
        image = f"{index}_cam-image_array_.jpg"
        cv2.imwrite(str(tmp_path / image), np.full((12, 16, 3), 10 * index, np.uint8))
        values = {"cam/image_array": image, "user/angle": 0.1, "user/throttle": 0.2, "milliseconds": 50 * index}
        (tmp_path / f"record_{index}.json").write_text(json.dumps(values))
    assert scheme_of(str(tmp_path)) == "tub"
    assert indexes(opened(tmp_path)) == list(range(11))


def test_realtime_plays_at_the_tubs_own_pace_and_skips_what_is_late(tmp_path):
    source = opened(write_tub(tmp_path / "tub", [record(index) for index in range(12)]), realtime=True)
    assert source.live
    before = time.monotonic()
    first = source.read(1.0)
    second = source.read(1.0)
    assert time.monotonic() - before >= 0.045
    assert (first.truth.values["angle"], second.truth.values["angle"]) == (0.0, 0.1)
    assert second.sensor_ns - first.sensor_ns == 50_000_000
    source._pace.rebase(0.42)
    late = indexes(source)
    assert late[0] >= 8
    assert late[-1] == 11


def test_a_tub_has_its_own_pace_if_it_is_watched_and_goes_on_after_a_pause(tmp_path):
    folder = write_tub(tmp_path / "tub", [record(index) for index in range(12)])
    settings = load_settings({"source": f"tub:{folder}"}, environment={})
    assert not build_source(settings, load_model(settings)).live
    source = build_source(settings, load_model(settings), watched=True)
    assert source.live
    assert source.finite
    source.open()
    source.read(1.0)
    time.sleep(0.3)
    source.resume()
    # A busy machine may be late by one; without `resume` it is five.
    assert indexes(source)[0] <= 2


def test_a_loop_goes_on_in_time_and_ends_when_the_images_are_gone(tmp_path):
    folder = write_tub(tmp_path / "tub", [record(index) for index in range(3)])
    source = opened(folder, loop=True)
    moments = [source.read(1.0).moment_ns for _ in range(7)]
    assert moments == [50_000_000 * step for step in range(7)]
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(PermanentSourceError, match="none of the images can be decoded"):
        source.read(1.0)


def test_a_folder_is_recognised_by_its_catalog(tmp_path):
    folder = write_tub(tmp_path / "tub", [record(0)])
    assert scheme_of(str(folder)) == "tub"
    assert scheme_of("tub:anything") == scheme_of("tub:///anything") == "tub"
    assert local_path("tub:///a/b") == local_path("tub:/a/b") == local_path("/a/b")
    assert indexes(create_and_open(str(folder))) == [0]


def create_and_open(uri):
    source = create_source(uri, SourceOptions())
    source.open()
    return source


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "is no donkeycar tub"),
        (lambda folder: folder.rmdir(), "No such file"),
        (lambda folder: (folder / "catalog_0.catalog").write_text(""), "it is empty"),
        (lambda folder: (folder / "catalog_0.catalog").write_text("{}\n"), "1 broken lines"),
        (lambda folder: (folder / "catalog_0.catalog").write_text(json.dumps(record(0))), "1 missing images"),
    ],
)
def test_a_folder_without_frames_is_refused(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(PermanentSourceError, match=message) as caught:
        opened(tmp_path)
    assert not isinstance(caught.value, SourceDenied)
