import pytest

from camapp.core.truth import TruthRule

LABELS = ("7", "cat", "automobile", "airplane", "traffic light")


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("a/12_7.png", "auto", "7"),
        ("a/12_cat.png", "auto", "cat"),
        ("a/holiday_2024_cat.png", "auto", "cat"),
        ("pets/cat/1.png", "auto", "cat"),
        ("pets/Cat/1.png", "auto", "cat"),
        ("pets/cat/1_7.png", "auto", "7"),
        ("a/0_7_extra.png", "auto", "7"),
        ("a/a_7.v2.png", "auto", "7"),
        ("a/1_traffic_light.png", "auto", "traffic light"),
        ("a/1_car.png", "auto", "automobile"),
        ("plane/1.png", "auto", "airplane"),
        ("a/IMG_2041.jpg", "auto", ""),
        ("a/plain.png", "auto", ""),
        ("a/0_7_extra.png", "name", "7"),
        ("a/a_7.v2.png", "name", "7"),
        ("a/1_car.png", "name", "automobile"),
        ("12_tabby_cat.png", "name", "tabby_cat"),
        ("a/plain.png", "name", ""),
        ("pets/tabby/1_7.png", "folder", "tabby"),
        ("1_7.png", "folder", ""),
        ("cat/12_7.png", "none", ""),
    ],
)
def test_the_true_label_comes_from_the_name_or_folder(file, source, expected):
    assert TruthRule(LABELS, source)(file) == expected


def test_a_label_is_spelt_exactly_where_others_differ_in_case_alone():
    rule = TruthRule(("a", "A"))
    assert [rule(f"x/1_{name}.png") for name in ("a", "A")] == ["a", "A"]


def test_a_model_with_both_names_of_an_alias_keeps_them_apart():
    rule = TruthRule(("car", "automobile"))
    assert [rule(f"x/1_{name}.png") for name in ("car", "automobile")] == ["car", "automobile"]


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("a/1_lorry.png", "auto", "lorry"),
        ("lorry/1.png", "auto", "lorry"),
        ("lorry/1_cat.png", "auto", ""),
        ("lorry/1_cat.png", "folder", "lorry"),
        ("lorry/1_cat.png", "none", ""),
        ("a/plain.png", "name", ""),
    ],
)
def test_a_truth_that_is_no_label_is_a_stray(file, source, expected):
    assert TruthRule(LABELS, source).stray(file) == expected


def test_the_name_of_a_sheet_may_be_a_number():
    digits = "0123456789"
    rule = TruthRule(digits, "name", numbers=True)
    assert rule("sheet_2034_b.png") == "2034"
    assert rule.stray("sheet_2034_b.png") == ""
    assert TruthRule(digits, "auto", numbers=True)("IMG_2034.jpg") == "", "photos have numbers"
