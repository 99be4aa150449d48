from itertools import permutations

import numpy as np
import pytest

from camapp.tasks.assignment import assign


def test_the_total_cost_is_the_least_of_all_assignments():
    rng = np.random.default_rng(0)
    for case in range(300):
        rows, columns = rng.integers(1, 5, 2)
        cost = rng.integers(0, 9, (rows, columns)).astype(float) if case % 2 else rng.normal(size=(rows, columns))
        unpaired = float(rng.uniform(0, 6))
        if case % 3 == 0:
            cost[rng.random(cost.shape) < 0.3] = np.inf
        found = assign(cost, unpaired)
        assert len(set(found[0])) == len(set(found[1])) == len(found[0])
        total = cost[found].sum() + unpaired * (rows - len(found[0]))
        # Columns from `columns` on stand for no partner.
        extended = np.concatenate([cost, np.full((rows, rows), unpaired)], axis=1)
        orders = np.array(list(permutations(range(rows + columns), int(rows))))
        least = extended[np.arange(rows), orders].sum(axis=1).min()
        assert total == pytest.approx(least, abs=1e-9)


def test_pairs_that_cost_more_than_none_are_left_out():
    rows, columns = assign(np.array([[1.0, 9.0], [2.0, 9.0]]), 5.0)
    assert (rows.tolist(), columns.tolist()) == ([0], [0])
    assert [len(part) for part in assign(np.empty((0, 3)), 5.0)] == [0, 0]
    assert [len(part) for part in assign(np.full((2, 2), np.inf), 5.0)] == [0, 0]
