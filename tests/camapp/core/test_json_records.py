"""JSON as logs, pages and brokers get it."""

import math

import pytest

from camapp.core.json_records import compact_json


def test_nan_and_infinity_become_null():
    assert compact_json({"a": [math.inf, 1.5], "b": {"c": math.nan}, "d": (-math.inf,)}) == (
        '{"a":[null,1.5],"b":{"c":null},"d":[null]}'
    )


def test_letters_of_all_languages_stay():
    assert compact_json(["Zürich", "猫"]) == '["Zürich","猫"]'


def test_what_is_no_json_is_an_error():
    with pytest.raises(TypeError):
        compact_json({"a": object()})
