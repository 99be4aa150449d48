import pytest

torch = pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")

from weights.augment import apply  # noqa: E402
from weights.recipe import Augment  # noqa: E402


def varied(images, seed=0, **settings):
    return apply(images, Augment(**settings), torch.Generator().manual_seed(seed))


def blob(count=64, channels=1, side=28):
    images = torch.zeros(count, channels, side, side)
    images[:, :, 8:20, 12:16] = 1
    return images


def centre(images):
    """Return the centre of mass (batch, 2), x and y."""
    places = torch.arange(images.shape[-1], dtype=torch.float32)
    mass = images.sum((1, 2, 3))
    return torch.stack([(images * places).sum((1, 2, 3)), (images * places[:, None]).sum((1, 2, 3))], 1) / mass[:, None]


@pytest.mark.parametrize(
    "settings",
    [{"rotate": 15}, {"shift": 2}, {"scale": 0.2}, {"stroke": 1}, {"crop": 4}, {"flip": True},
     {"erase": 6},
     {"rotate": 15, "shift": 1.5, "scale": 0.1, "stroke": 0.5, "crop": 2, "flip": True}],
)  # fmt: skip
def test_images_differ_and_keep_their_shape_and_range(settings):
    images = torch.rand(16, 3, 28, 28)
    found = varied(images, **settings)
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    assert not torch.equal(found, images)
    assert torch.equal(found, varied(images, **settings)), "the same seed gives the same images"


def test_without_settings_images_are_unchanged():
    images = blob()
    assert varied(images) is images


def test_the_share_limits_the_number_of_changed_images():
    images = torch.rand(400, 1, 28, 28)
    same = (varied(images, rotate=15, share=0.25) == images).flatten(1).all(1).float().mean()
    assert 0.65 < same < 0.85


def test_flip_mirrors_about_half():
    images = torch.rand(400, 3, 8, 8)
    found = varied(images, flip=True)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert 0.4 < mirrored.float().mean() < 0.6
    assert torch.equal(found[~mirrored], images[~mirrored])


def test_crop_moves_by_whole_pixels_within_its_border():
    images = torch.rand(100, 3, 12, 12)
    found = varied(images, crop=2)
    padded = torch.nn.functional.pad(images, (2,) * 4, mode="reflect")
    places = [(row, column) for row in range(5) for column in range(5)]
    hits = torch.stack([(padded[:, :, r : r + 12, c : c + 12] == found).flatten(1).all(1) for r, c in places], 1)
    assert hits.any(1).all()
    assert hits.any(0).all(), "every offset occurs"


def test_erase_only_paints_a_grey_square():
    images = torch.rand(400, 3, 12, 12) + 1
    found = varied(images, erase=4)
    grey = (found == 0.5).all(1)
    assert torch.equal(found[~grey[:, None].expand_as(found)], images[~grey[:, None].expand_as(found)])
    rows, columns = grey.any(2).sum(1), grey.any(1).sum(1)
    assert torch.equal(grey.sum((1, 2)), rows * columns)
    assert (rows.max(), columns.max()) == (4, 4)
    assert min(rows.min(), columns.min()) == 2, "its centre stays inside"


def test_shift_is_in_pixels():
    moved = centre(varied(blob(1000), shift=2)) - centre(blob(1))
    assert moved.abs().max() <= 2.01
    assert moved.abs().max() > 1.8


def test_rotation_is_in_degrees():
    found = varied(blob(1000), rotate=15)
    x, y = torch.meshgrid(torch.arange(28.0) - 13.5, torch.arange(28.0) - 13.5, indexing="xy")
    angle = 0.5 * torch.atan2(2 * (found * x * y).sum((1, 2, 3)), (found * (y**2 - x**2)).sum((1, 2, 3))).rad2deg()
    assert angle.abs().max() < 15.5
    assert angle.abs().max() > 14


def test_stroke_widens_and_thins():
    mass = varied(blob(100), stroke=1).sum((1, 2, 3)) / blob(1).sum()
    assert mass.min() < 0.6
    assert mass.max() > 1.6
