"""Class names in the forms and encodings that other programs write, and what a model is said to know."""

import json

import pytest

from camapp.core.labels import knowledge, read_labels
from engine.model import ModelCard, ModelError

NAMES = ("Hünd", "Katze", "Maus")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "latin-1"])
def test_labels_are_read_in_five_encodings(tmp_path, encoding):
    text = "\r\n".join(NAMES)
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    (tmp_path / "labels.txt").write_bytes((mark + text).encode(encoding))
    assert read_labels(str(tmp_path / "labels.txt")) == NAMES


@pytest.mark.parametrize(
    "content",
    [
        list(NAMES),
        {"0": NAMES[0], "2": NAMES[2], "1": NAMES[1]},
        {NAMES[1]: 1, NAMES[0]: 0, NAMES[2]: 2},
        {"architectures": ["X"], "id2label": dict(enumerate(NAMES)), "label2id": {}},
        {"names": list(NAMES)},
        {str(number): [f"n{number}", name] for number, name in enumerate(NAMES)},
    ],
)
@pytest.mark.parametrize("name", ["labels.json", "config"])
def test_labels_are_read_from_lists_and_objects_of_json(tmp_path, content, name):
    (tmp_path / name).write_text(json.dumps(content))
    assert read_labels(str(tmp_path / name)) == NAMES


@pytest.mark.parametrize("form", ["{} {}", "{}: {}", "{},{}", "{}\t{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_lines_lose_their_numbers(tmp_path, form, first):
    lines = [form.format(number, name) for number, name in enumerate(NAMES, first)]
    (tmp_path / "labels.txt").write_text("\n".join(reversed(lines)))
    assert read_labels(str(tmp_path / "labels.txt")) == NAMES


def test_a_long_list_of_names_is_no_file_name():
    names = tuple(f"class {number}" for number in range(80))
    assert read_labels(",".join(names)) == names


@pytest.mark.parametrize("lines", [("1 euro", "2 euro"), ("0 plane", "7 car"), ("3", "5"), ("0 plane", "car")])
def test_names_with_numbers_stay(tmp_path, lines):
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    assert read_labels(str(tmp_path / "labels.txt")) == lines


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b"{}", "it contains no class names"),
        ("a.json", b'{"0": "a", "2": "b"}', "from 0 on without a gap"),
        ("a.json", b"[1, 2]", "expected a JSON list of names"),
        ("a.json", b"[", "not a list of names"),
        ("a.json", b"[" * 100_000, "not a list of names"),
        ("a.txt", b"a\0b\0", "UTF-16 without its mark"),
        ("a.txt", b"\xff\xfea", "not a list of names"),
        ("a.txt", b"\xff\xfe", "it contains no class names"),
    ],
)
def test_other_content_is_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name}: .*{reason}"):
        read_labels(str(tmp_path / name))


@pytest.mark.parametrize(
    ("card", "text"),
    [
        (ModelCard("n", labels=("cat", "dog", "hen", "owl")), "four words: cat, dog, hen, ..."),
        (ModelCard("n", labels=("face",)), "one word: face"),
        (ModelCard("n", "digits", labels=tuple("0123456789")), "ten digits: 0, 1, 2, ..."),
        (ModelCard("n", labels=tuple(f"a{i}" for i in range(1000))), "1,000 words: a0, a1, a2, ..."),
        (ModelCard("n", "track"), "lane lines"),
        (ModelCard("n"), ""),
    ],
)
def test_what_a_model_knows_is_said_in_words(card, text):
    assert knowledge(card) == text
