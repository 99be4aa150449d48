"""Graphs whose nodes have been tampered with: each runs, or a ModelError names the node; nothing else, and at once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.evaluation import Evaluation
from engine.graph import Graph, ModelError, Node, Value
from tests.engine.operator_cases import CASES

NUMBERS = (-1, 0, 1, 2, 3, 7, -5, 100, 65_536, 2**31 - 1, 2**62, -(2**63))
STRANGE = (3, -1, (1, 2), (), 1.5, (1.5,), "text", "SAME_UPPER", "linear", "cubic", "reflect", float("nan"), 1e30)


def tampered(node: Node, state: np.random.RandomState) -> Node:
    """One change: an attribute another number, another kind or gone, or an input more or less."""
    attributes: dict[str, Any] = dict(node.attributes)
    name = sorted(attributes)[state.randint(len(attributes))] if attributes else ""
    kind = state.randint(5)
    if kind == 0 and isinstance(attributes.get(name), tuple) and attributes[name]:
        values = list(attributes[name])
        values[state.randint(len(values))] = NUMBERS[state.randint(len(NUMBERS))]
        attributes[name] = tuple(values)
    elif kind in (0, 1) and name:
        attributes[name] = NUMBERS[state.randint(len(NUMBERS))]
    elif kind == 2 and name:
        attributes[name] = STRANGE[state.randint(len(STRANGE))]
    elif kind == 3 and name:
        del attributes[name]
    elif state.randint(2) and len(node.inputs) > 1:
        return replace(node, inputs=node.inputs[:-1])
    else:
        return replace(node, inputs=(*node.inputs, node.inputs[0]))
    return replace(node, attributes=attributes)


def tamper(count: int, seed: int) -> None:
    state, refused, slowest = np.random.RandomState(seed), 0, 0.0
    unnamed: list[str] = []
    for _ in range(count):
        case = CASES[state.randint(len(CASES))]
        inputs, node = case.inputs(), case.node()
        for _ in range(1 + state.randint(3)):
            node = tampered(node, state)
        values = tuple(Value(f"in{i}", array.shape, array.dtype.name) for i, array in enumerate(inputs))
        start = time.monotonic()
        try:
            Evaluation(Graph("g", values, (Value("out", ()),), (node,)), inputs).run(inputs)
        except ModelError as error:
            refused += 1
            unnamed += [str(error)] if case.name not in str(error) else []
        except Exception as error:
            raise AssertionError(f"{node}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.monotonic() - start)
    assert count / 10 < refused < count * 9 / 10
    assert not unnamed
    assert slowest < 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers beyond float32 overflow as IEEE says
def test_tampered_nodes_run_or_are_refused_by_name() -> None:
    tamper(1000, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.timeout(600)
def test_tampered_nodes_by_the_thousand() -> None:
    tamper(20_000, 2)
