import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from camapp.tasks import line_decoder
from engine import nets
from engine.nets.track import FIELDS
from tests.programs import children_of, wait_until
from weights import WeightsError
from weights.photographs import Photographs
from weights.tracks import grid, input_size, render, shards

torch = pytest.importorskip("torch")

from weights.export import export_track  # noqa: E402
from weights.recipe import TrackRecipe  # noqa: E402
from weights.torch_net import TorchNet  # noqa: E402
from weights.train import to_arrays  # noqa: E402
from weights.train_track import _varied, fields_of, loss_of, surer, train_track  # noqa: E402

TINY = TrackRecipe(name="track", net="track", epochs=2, images=16, batch=8, learning_rate=1e-3, validation=4, seed=1)


def test_images_and_fields_have_the_shapes_of_the_net_and_are_reproducible():
    one, again = render([3, 4]), render([3, 4])
    assert one.images.shape == (2, input_size()[1], input_size()[0], 3)
    assert one.fields.shape[1:3] == grid()
    assert np.array_equal(one.images, again.images)
    assert np.array_equal(one.fields, again.fields)


def test_shards_are_contiguous_and_disjoint(tmp_path):
    first, second = shards(2, 6, first_seed=10, folder=tmp_path)
    assert np.array_equal(np.concatenate([first.images, second.images]), render(range(10, 22)).images)
    (kept,) = shards(2, 6, first_seed=10, folder=tmp_path, begin=1)
    assert np.array_equal(kept.fields, second.fields)


@pytest.mark.slow
def test_no_renderer_outlives_a_killed_training(tmp_path):
    program = tmp_path / "render.py"
    program.write_text(
        "from pathlib import Path\nfrom weights.tracks import shards\n"
        "if __name__ == '__main__':\n    next(shards(1, 100_000, 1, Path(__file__).parent, processes=2))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, program], env=environment) as training:
        wait_until(lambda: len(children_of(training.pid)) == 3, 30)  # two that render, and multiprocessing's tracker
        children = children_of(training.pid)
        time.sleep(1.5)  # until they render
        training.terminate()
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 30)


def test_torch_and_the_task_unpack_the_output_equally():
    output = np.random.default_rng(0).normal(size=(2, *nets.build("track").outputs[0].shape[1:])).astype(np.float32)
    fields = fields_of(torch.from_numpy(output)).numpy()
    for one, field in zip(output, fields, strict=True):
        assert np.array_equal(line_decoder.unpack(one), field)


def test_the_loss_is_minimal_if_the_output_is_the_truth():
    wanted = torch.from_numpy(render([1, 2, 3]).fields).float()
    assert wanted[..., 0].sum() > 0
    rows, columns = grid()
    predicted = wanted[..., :5].clone()
    predicted[..., 0] = wanted[..., 0] * 20 - 10
    packed = predicted.reshape(3, rows // 2, 2, columns // 2, 2, 5).permute(0, 2, 4, 5, 1, 3)
    output = packed.reshape(3, -1, rows // 2, columns // 2)
    assert float(loss_of(output, wanted)) < 0.01
    assert float(loss_of(-output, wanted)) > 1


def test_a_gain_multiplies_the_presence_alone():
    torch.manual_seed(0)
    arrays = to_arrays(TorchNet(nets.build("track")))
    changed = surer(arrays, 1.5)
    images = torch.rand(1, *nets.build("track").inputs[0].shape[1:])
    outputs = []
    for weights in (arrays, changed):
        net = TorchNet(nets.build("track")).eval()
        net.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, strict=False)
        outputs.append(fields_of(net(images)).detach())
    assert torch.allclose(outputs[1][..., 0], 1.5 * outputs[0][..., 0], atol=1e-5)
    assert torch.equal(outputs[1][..., 1:], outputs[0][..., 1:])


def test_mirrored_images_have_mirrored_fields():
    line = [(0.2, 0.9), (0.4, 0.3)]
    mirrored = [(1 - x, y) for x, y in line]
    original, mirrored_field = (line_decoder.encode([(points, False)], grid()) for points in (line, mirrored))
    shard = render([21])
    fields = np.stack([original, original]).astype(np.float16)
    images = np.concatenate([shard.images] * 2)
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(8):
        for shown, wanted in _varied([type(shard)(images, fields)], batch=2, generator=generator):
            assert 0 <= float(shown.min()) <= float(shown.max()) <= 1
            seen += list(wanted.numpy())
    present = mirrored_field[..., 0] > 0
    flipped = [one for one in seen if np.array_equal(one[..., 0], mirrored_field[..., 0])]
    assert 0 < len(flipped) < 16
    assert np.allclose(flipped[0][present], mirrored_field[present], atol=0.02)


def test_variants_of_a_photograph_keep_its_lines_in_place(tmp_path):
    photograph(tmp_path)
    shard = Photographs(tmp_path).varied(12, seed=3)
    assert np.array_equal(shard.images, Photographs(tmp_path).varied(12, seed=3).images)
    width, height = input_size()
    rows, columns = grid()
    checked = 0
    for image, field in zip(shard.images, shard.fields.astype(float), strict=True):
        for row, column in np.argwhere((field[..., 0] > 0) & (field[..., FIELDS] == 1)):
            x, y = (np.array([column, row]) + 0.5 + field[row, column, 1:3]) * (width / columns, height / rows)
            if 2 < x < width - 2 and 2 < y < height - 2:
                assert image[int(y), int(x)].mean() > np.median(image) + 40
                checked += 1
    assert checked > 100


def test_photographs_are_read_from_subfolders_and_by_source(tmp_path):
    for name, sources in (("train", [None]), ("field", ["a", "b", "c"])):
        (tmp_path / name).mkdir()
        photograph(tmp_path / name, *sources)
    both, one = (Photographs(tmp_path, parts).varied(4, seed=3) for parts in (("train", "field/c"), ("train",)))
    # Variants are drawn in turn from each photograph.
    assert both.images[1].mean() > 1.5 * both.images[0].mean()
    assert one.images[1].mean() < 1.5 * one.images[0].mean()
    with pytest.raises(WeightsError, match="of field/d"):
        Photographs(tmp_path, ("field/d",))


def test_unreadable_labels_raise_an_error(tmp_path):
    with pytest.raises(WeightsError, match=r"labels\.json"):
        Photographs(tmp_path)
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(WeightsError, match="no image"):
        Photographs(tmp_path)


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_result(tmp_path):
    whole = train_track(TINY, tmp_path / "whole")

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_track(TINY, tmp_path / "parts", report=stop)
    parts = train_track(TINY, tmp_path / "parts", resume=True)
    assert parts.history == whole.history
    assert all(np.array_equal(array, whole.arrays[name]) for name, array in parts.arrays.items())
    with pytest.raises(WeightsError, match="another recipe"):
        train_track(replace(TINY, batch=4), tmp_path / "parts", resume=True)
    with pytest.raises(WeightsError, match="no interrupted run"):
        train_track(TINY, tmp_path / "nothing", resume=True)


@pytest.mark.slow
def test_a_model_trained_on_photographs_is_exported_for_the_engine(tmp_path):
    photograph(tmp_path)
    recipe = replace(TINY, epochs=1, photographs=8, start="track")
    with pytest.raises(WeightsError, match="--data"):
        train_track(recipe, tmp_path / "run")
    trained = train_track(recipe, tmp_path / "run", photographs=Photographs(tmp_path))
    model = export_track(trained, recipe, tmp_path / "track.npz")
    assert model.card.task == "track"
    assert repr(recipe) in model.card.recipe


def photograph(folder, *sources):
    entries = []
    for i, source in enumerate(sources or [None]):
        image = np.full((120, 160, 3), 60 * (i + 1), np.uint8)
        cv2.line(image, (40, 119), (70, 20), (250, 250, 250), 9)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        entry = {"image": f"{i}.png", "size": [160, 120], "subset": "floor", "lines": [[[40.5, 119.5], [70.5, 20.5]]]}
        entries.append(entry | ({"source": source} if source else {}))
    (folder / "labels.json").write_text(json.dumps(entries))
