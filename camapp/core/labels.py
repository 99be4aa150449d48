"""Reads class names, in the forms in which other programs write them, and says what a model knows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camapp.core.model_table import labels_named
from engine.model import ModelCard, ModelError

# A line such as "0 plane" or "0: plane".
_NUMBERED = re.compile(r"(\d+)[\s:,;]+(\S.*)")
# Keys of a JSON object that hold its names; the first is that of Hugging Face's config.json.
_KEYS = ("id2label", "names", "labels", "classes")
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SHOWN = 3


def read_labels(text: str) -> tuple[str, ...]:
    """Read class names from a file, from the text itself ('cat,dog'), or by data set ('imagenet', 'coco').

    A file has one name a line, which may begin with its number, or is JSON: a list, or an object from numbers to names
    or from names to numbers, which may be under a key such as `id2label`. It is UTF-8, UTF-16 with its mark, or
    Latin-1.

    Raises:
        ModelError: the file cannot be read or has other content.
    """
    path = Path(text).expanduser()
    if not os.path.exists(path):
        if "," in text:
            return _names(text.split(","), "--labels")
        if names := labels_named(text):
            return names
        raise ModelError(f"no label file '{text}' (or give names separated by commas, or imagenet or coco)")
    try:
        content = _decoded(path.read_bytes())
        if path.suffix.lower() == ".json" or content.lstrip().startswith(("{", "[")):
            return _names(_of_json(json.loads(content)), str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot read the labels: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a list of names: {error}") from error
    return _names(_without_numbers(content.splitlines()), str(path))


def knowledge(card: ModelCard) -> str:
    """Return what a model knows, such as "ten words: airplane, automobile, bird, ..."; "" if that is not known."""
    if not card.labels:
        return "lane lines" if card.task == "track" else ""
    count = len(card.labels)
    what = "digit" if all(label.isdecimal() for label in card.labels) else "word"
    number = _WORDS[count] if count < len(_WORDS) else f"{count:,}"
    more = ", ..." if count > _SHOWN else ""
    return f"{number} {what}{'s' if count > 1 else ''}: {', '.join(card.labels[:_SHOWN])}{more}"


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\0" in content:
        raise ValueError("it is no text, or UTF-16 without its mark: save it as UTF-8")
    try:
        # With or without the byte order mark that Windows' editors write.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _of_json(found: Any) -> list[str]:
    """Return the names in order. Raises ValueError for any other content."""
    if isinstance(found, dict):
        found = next((found[key] for key in _KEYS if isinstance(found.get(key), dict | list)), found)
    if isinstance(found, dict):
        if all(type(number) is int for number in found.values()):
            found = {str(number): name for name, number in found.items()}
        if sorted(found) != sorted(map(str, range(len(found)))):
            raise ValueError("expected names by number, from 0 on without a gap")
        found = [found[str(number)] for number in range(len(found))]
    if isinstance(found, list):
        # ImageNet's file has ["n01440764", "tench"].
        found = [item[-1] if isinstance(item, list) and item else item for item in found]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("expected a JSON list of names, or an object from numbers to names")
    return found


def _without_numbers(lines: Sequence[str]) -> list[str]:
    """Return the names of lines that are all numbered, from 0 or 1 on, in the order of the numbers; else the lines."""
    lines = [line.strip() for line in lines if line.strip()]
    found = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    numbers = sorted(int(match[1]) for match in found)
    by_number = {int(match[1]): match[2] for match in found}
    are_numbered = len(found) == len(lines) and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    # "1 euro", "2 euro" are names.
    if not are_numbered or len(set(by_number.values())) < len(lines):
        return lines
    return [by_number[number] for number in numbers]


def _names(lines: Sequence[str], where: str) -> tuple[str, ...]:
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ModelError(f"{where}: it contains no class names")
    return names
