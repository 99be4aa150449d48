import numpy as np
import pytest

from camapp.tasks import linefield
from engine import nets
from weights.tracks import grid, input_size, render, shards

torch = pytest.importorskip("torch")

from weights.export import export_track  # noqa: E402
from weights.recipe import TrackRecipe  # noqa: E402
from weights.train_track import _varied, fields_of, loss_of, train_track  # noqa: E402

TINY = TrackRecipe(net="track", epochs=2, pictures=16, batch=8, learning_rate=1e-3, validation=4, seed=1)


def test_pictures_and_fields_have_the_nets_shapes_and_repeat():
    one, again = render([3, 4]), render([3, 4])
    assert one.pictures.shape == (2, input_size()[1], input_size()[0], 3)
    assert one.fields.shape[1:3] == grid()
    assert np.array_equal(one.pictures, again.pictures)
    assert np.array_equal(one.fields, again.fields)


def test_shards_follow_each_other_without_gaps_or_repeats():
    first, second = shards(2, 6, first_seed=10)
    assert np.array_equal(np.concatenate([first.pictures, second.pictures]), render(range(10, 22)).pictures)


def test_torch_and_the_task_unpack_the_output_alike():
    output = np.random.default_rng(0).normal(size=(2, *nets.build("track").outputs[0].shape[1:])).astype(np.float32)
    fields = fields_of(torch.from_numpy(output)).numpy()
    for one, field in zip(output, fields, strict=True):
        assert np.array_equal(linefield.unpack(one), field)


def test_the_loss_is_least_where_the_output_says_the_truth():
    wanted = torch.from_numpy(render([21]).fields).float()
    assert wanted[..., 0].sum() > 0
    rows, columns = grid()
    said = wanted[..., :5].clone()
    said[..., 0] = wanted[..., 0] * 20 - 10
    packed = said.reshape(1, rows // 2, 2, columns // 2, 2, 5).permute(0, 2, 4, 5, 1, 3)
    output = packed.reshape(1, -1, rows // 2, columns // 2)
    assert float(loss_of(output, wanted)) < 0.01
    assert float(loss_of(-output, wanted)) > 1


def test_mirrored_pictures_have_mirrored_fields():
    line = [(0.2, 0.9), (0.4, 0.3)]
    mirrored = [(1 - x, y) for x, y in line]
    there, back = (linefield.write([(points, False)], grid()) for points in (line, mirrored))
    shard = render([21])
    fields = np.stack([there, there]).astype(np.float16)
    pictures = np.concatenate([shard.pictures] * 2)
    generator = torch.Generator().manual_seed(0)
    seen = [
        wanted.numpy()
        for _ in range(8)
        for _, wanted in _varied([type(shard)(pictures, fields)], batch=2, generator=generator)
    ]
    present = back[..., 0] > 0
    flipped = [one for batch in seen for one in batch if np.array_equal(one[..., 0], back[..., 0])]
    assert 0 < len(flipped) < 16
    assert np.allclose(flipped[0][present], back[present], atol=0.02)


@pytest.mark.slow
def test_a_run_repeats_and_exports_what_the_engine_runs(tmp_path):
    one, again = train_track(TINY), train_track(TINY)
    assert one.history == again.history
    model = export_track(one, TINY, tmp_path / "track.npz")
    assert model.card.task == "track"
    assert repr(TINY) in model.card.recipe
