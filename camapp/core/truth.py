"""Finds the true label of an image in its path, by one rule for all commands."""

from __future__ import annotations

import re
from collections.abc import Collection

TRUTHS = ("auto", "name", "folder", "none")
# Names of one class in published data sets: a truth may have any, the model another.
ALIASES = (("automobile", "car"), ("airplane", "plane", "aeroplane"))
_END_OF_PART = re.compile(r"[_.]")


class TruthRule:
    """Returns the true label of an image, as the model spells it; "" if there is none.

    Case, '_' and '-' in place of spaces, and aliases such as 'car' for 'automobile' make no difference.

    Args:
        labels: the model's.
        source: 'name' is what follows the first underscore (`12_7.png`), or its part up to the next underscore or dot
            (`0_7_b.png`) if that is a label; 'folder' is the name of the folder; 'none' is neither. 'auto' is the
            first of these that is a label: name, its part, what follows the last underscore, folder.
        numbers: whether several labels in a row form a number, as digits on a sheet do; only a given source is
            trusted with those.
    """

    def __init__(self, labels: Collection[str], source: str = "auto", numbers: bool = False) -> None:
        self._source = source
        self._digits = frozenset(labels) if numbers and source != "auto" else frozenset()
        loose: dict[str, str] = {}
        for label in labels:
            # Labels that differ in nothing but spelling have to be spelt exactly.
            loose[_key(label)] = "" if _key(label) in loose else label
        for names in ALIASES:
            known = [loose[name] for name in names if loose.get(name)]
            loose = dict.fromkeys(names, known[0]) | loose if known else loose
        self._labels = loose | {label: label for label in labels}

    def __call__(self, file: str) -> str:
        """Return the true label of a file; if the source is given, also one that is no label of the model."""
        candidates = self._candidates(file)
        found = self._known(candidates)
        return found or ("" if self._source == "auto" else next(iter(candidates), ""))

    def stray(self, file: str) -> str:
        """Return what stands in the place of the truth but is no label of the model; "" if nothing does."""
        candidates = self._candidates(file)
        return "" if self._known(candidates) else next(iter(candidates), "")

    def _known(self, candidates: list[str]) -> str:
        for text in candidates:
            if label := self._labels.get(text) or self._labels.get(_key(text)):
                return label
            if self._digits.issuperset(text):
                return text
        return ""

    def _candidates(self, file: str) -> list[str]:
        path, _, name = file.rpartition("/")
        folder = path.rpartition("/")[2]
        if self._source in ("folder", "none"):
            return [folder] if folder and self._source == "folder" else []
        _, _, rest = name.rpartition(".")[0].partition("_")
        found = [rest, _END_OF_PART.split(rest, maxsplit=1)[0]]
        if self._source == "auto":
            found += [rest.rpartition("_")[2], folder]
        return [text for text in found if text]


def _key(text: str) -> str:
    return text.casefold().replace("_", " ").replace("-", " ")
