import numpy as np
import pytest

from camapp.tasks import line_decoder
from engine.nets.track import FIELDS, SUBCELLS

GRID = (30, 40)


def arc(middle, radius, start, stop):
    angles = np.linspace(start, stop, 60)
    return [(middle[0] + radius * np.cos(a) * 0.75, middle[1] + radius * np.sin(a)) for a in angles]


LINES = {
    "upright": [(0.3, 0.95), (0.45, 0.2)],
    "level": [(0.02, 0.52), (0.98, 0.5)],
    "arc": arc((0.5, 0.9), 0.6, 3.2, 6.2),
    "hairpin": arc((0.3, 0.5), 0.25, 1.6, 4.7),
}


def predicted(field, logit=4.0):
    raw = field[..., :FIELDS].copy()
    raw[..., 0] = np.where(field[..., 0] > 0, logit, -logit)
    return raw


def gap(points, line):
    """Return the maximum distance of points from a densely sampled line, in cells."""
    steps = np.linspace(0, len(line) - 1, 2000)
    dense = np.stack([np.interp(steps, range(len(line)), np.array(line)[:, axis]) for axis in (0, 1)], axis=1)
    away = (np.array(points)[:, None] - dense[None]) * (GRID[1], GRID[0])
    return np.hypot(*away.transpose(2, 0, 1)).min(axis=1).max()


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_decoded_to_a_fraction_of_a_cell(name):
    (chain,) = line_decoder.decode(predicted(line_decoder.encode([(LINES[name], False)], GRID)))
    assert gap(chain.points, LINES[name]) < 0.2
    assert chain.score == pytest.approx(1 / (1 + np.exp(-4)), rel=1e-3)
    # The line is not shortened.
    assert gap(LINES[name], chain.points) < 1.6
    assert chain.points[0, 1] >= chain.points[-1, 1]


def test_a_double_tape_is_two_lines():
    pair = [[(x, 0.95), (x + 0.1, 0.3)] for x in (0.3, 0.34)]
    chains = line_decoder.decode(predicted(line_decoder.encode([(line, False) for line in pair], GRID)))
    assert len(chains) == 2
    assert all(any(gap(chain.points, line) < 0.3 for chain in chains) for line in pair)


def test_a_short_line_along_a_long_one_is_suppressed_and_one_that_leaves_it_is_not():
    long, echo, other = [(0.3, 0.95), (0.4, 0.1)], [(0.37, 0.7), (0.39, 0.5)], [(0.37, 0.7), (0.55, 0.5)]
    for lines, count in (([long, echo], 1), ([long, other], 2), ([echo], 1)):
        field = line_decoder.encode([(line, False) for line in lines], GRID)
        assert len(line_decoder.decode(predicted(field))) == count


def test_an_uncertain_line_counts_only_beside_a_certain_one():
    # The score of the first line is 0.88.
    unclear, clear = [(0.2, 0.95), (0.25, 0.3)], [(0.7, 0.95), (0.6, 0.3)]
    field = predicted(line_decoder.encode([(unclear, False)], GRID), logit=2.0)
    assert line_decoder.decode(field) == []
    right = predicted(line_decoder.encode([(clear, False)], GRID))
    field[:, GRID[1] // 2 :] = right[:, GRID[1] // 2 :]
    first, second = line_decoder.decode(field)
    assert gap(first.points, clear) < 0.2
    assert gap(second.points, unclear) < 0.2


def test_a_small_gap_is_bridged_and_a_large_one_is_not():
    field = line_decoder.encode([([(0.5, 0.98), (0.5, 0.02)], False)], GRID)
    small, large = field.copy(), field.copy()
    small[13:16, :, 0] = 0
    large[10:20, :, 0] = 0
    assert len(line_decoder.decode(predicted(small))) == 1
    assert len(line_decoder.decode(predicted(large))) == 2


def predicted_lines(*lines):
    """Return the field of (line, logit) pairs; later lines overwrite earlier ones."""
    whole = np.zeros((*GRID, FIELDS), np.float32)
    whole[..., 0] = -4
    for line, logit in lines:
        field = line_decoder.encode([(line, False)], GRID)
        whole[field[..., 0] > 0] = predicted(field, logit)[field[..., 0] > 0]
    return whole


def test_a_weak_continuation_of_a_sure_line_is_followed_and_a_weak_line_alone_is_not():
    near, far, alone = [(0.3, 0.95), (0.4, 0.5)], [(0.4, 0.5), (0.48, 0.14)], [(0.9, 0.9), (0.8, 0.5)]
    # A logit of -0.3 is a presence of 0.43.
    (chain,) = line_decoder.decode(predicted_lines((near, 4), (far, -0.3), (alone, -0.3)))
    assert gap(chain.points, near + far) < 0.3
    assert gap(near + far, chain.points) < 1.6
    assert chain.score > 0.95


@pytest.mark.parametrize("corner", [[(0.2, 0.9), (0.45, 0.4), (0.95, 0.45)], [(0.05, 0.7), (0.5, 0.5), (0.2, 0.3)]])
def test_a_sharp_corner_is_one_line(corner):
    (chain,) = line_decoder.decode(predicted_lines((corner, 4)))
    assert gap(chain.points, corner) < 0.6
    assert gap(corner, chain.points) < 1.6


def test_borders_that_meet_at_the_horizon_stay_two_and_a_corner_below_it_is_one():
    left, right = [(0.1, 0.95), (0.49, 0.3)], [(0.9, 0.95), (0.51, 0.3)]
    chains = line_decoder.decode(predicted_lines((left, 4), (right, 4)))
    assert len(chains) == 2
    assert all(min(gap(chain.points, line) for line in (left, right)) < 0.6 for chain in chains)
    # Another line leads farther: the place where the two meet is no horizon.
    farther = [(0.02, 0.5), (0.1, 0.1)]
    one, other = line_decoder.decode(predicted_lines((left, 4), (right, 4), (farther, 4)))
    assert min(gap(left + right[::-1], chain.points) for chain in (one, other)) < 1.6


@pytest.mark.parametrize("farther", [False, True])
def test_borders_that_are_linked_at_the_horizon_are_two(farther):
    left, right = [(0.1, 0.95), (0.42, 0.33), (0.5, 0.3)], [(0.5, 0.3), (0.58, 0.33), (0.9, 0.95)]
    beyond = [([(0.02, 0.5), (0.1, 0.1)], 4)] if farther else []
    chains = line_decoder.decode(predicted_lines((left + right, 4), *beyond))
    whole = min(gap(left + right, chain.points) for chain in chains)
    assert len(chains) == 2
    # With a line that leads farther, the kink is a corner below the horizon.
    assert (whole < 1.6) == farther


def test_a_second_row_of_a_broad_line_is_no_line():
    # The rows lie a cell apart.
    row, line = [(0.325, 0.95), (0.325, 0.1)], [(0.3, 0.95), (0.3, 0.1)]
    (chain,) = line_decoder.decode(predicted_lines((row, 0.9), (line, 4)))
    assert gap(chain.points, line) < 0.3


def test_crossing_lines_remain_straight():
    cross = [[(0.1, 0.9), (0.9, 0.2)], [(0.1, 0.2), (0.9, 0.9)]]
    chains = line_decoder.decode(predicted(line_decoder.encode([(line, False) for line in cross], GRID)))
    assert all(min(gap(chain.points, line) for line in cross) < 0.6 for chain in chains)


def test_faint_lines_have_a_low_weight():
    field = line_decoder.encode([(LINES["upright"], True)], GRID)
    assert field[..., 0].sum() == 0
    assert (field[..., FIELDS] == np.float32(line_decoder.DOUBT)).sum() > 20
    assert line_decoder.encode([], GRID)[..., FIELDS].min() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 50.0])
def test_any_numbers_give_finite_lines(value):
    for chain in line_decoder.decode(np.full((*GRID, FIELDS), value, np.float32)):
        assert np.isfinite(chain.points).all()
        assert 0 <= chain.score <= 1


def test_noise_gives_finite_lines():
    rng = np.random.default_rng(0)
    for _ in range(20):
        for chain in line_decoder.decode(rng.normal(0, 3, (*GRID, FIELDS)).astype(np.float32)):
            assert np.isfinite(chain.points).all()
            assert len(chain.points) > 1


def test_output_channels_are_cells_of_the_field():
    output = np.zeros((SUBCELLS * SUBCELLS * FIELDS, 15, 20), np.float32)
    # Lower left cell, fourth number.
    output[(1 * SUBCELLS + 0) * FIELDS + 3, 4, 7] = 1
    field = line_decoder.unpack(output)
    assert field.shape == (30, 40, FIELDS)
    assert np.argwhere(field).tolist() == [[9, 14, 3]]
