"""Knows published models by name: their files, checksums and cards, from data/models/table.toml; fetches nothing."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from engine.model_card import ModelCard

log = logging.getLogger(__name__)

DATA = Path(__file__).parents[1] / "data"
TABLE = DATA / "models" / "table.toml"
LABELS = DATA / "labels"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class KnownModel:
    """Describes one published model.

    Attributes:
        name: for `--model`.
        file: name of its file, at the publisher and in the cache.
        url: address of the file.
        sha256: of the file, in hexadecimal: whole, or its first 8 digits.
        size: bytes of the file; 0 if not known.
        input_shape: of one item, (C, H, W).
        fit: of an image to the input: 'crop', 'letterbox' or 'stretch'.
        mmac: millions of multiply-adds for one item.
        terms: what to know about the licence, in words; with the address of its text.
        card: the fields of a model card that the file does not hold.
    """

    name: str
    file: str
    url: str
    sha256: str
    size: int
    input_shape: tuple[int, ...]
    fit: str
    mmac: float
    terms: str
    licence_url: str
    card: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Return the meaning of the outputs, as in a model card."""
        return str(self.card["task"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the class names."""
        names: tuple[str, ...] = self.card["labels"]
        return names

    @property
    def path(self) -> Path:
        """Return where the file lies, or will lie, in the user's cache.

        Under sudo the cache of the user who called it counts too, if the file is there.
        """
        own, *others = (folder / self.file for folder in _cache_folders())
        return next((path for path in (own, *others) if path.exists()), own)

    @property
    def is_fetched(self) -> bool:
        """Return whether the file is in the cache, unchecked but for its size."""
        try:
            found = self.path.stat().st_size
        except OSError:
            return False
        return found == self.size or not self.size

    def matches(self, path: Path) -> bool:
        """Return whether a file has the published content; raises OSError."""
        status = path.stat()
        if self.size and status.st_size != self.size:
            return False
        return _sha256(path, status.st_size, status.st_mtime_ns).startswith(self.sha256)


@functools.cache
def known_models() -> Mapping[str, KnownModel]:
    """Return the table, by name."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    families = table["family"]
    return {name: _model(name, families.get(row.get("family"), {}) | row) for name, row in table["model"].items()}


def known_file(path: Path) -> KnownModel | None:
    """Return the published model that a file is, wherever it lies; None if it is none. Reads the whole file."""
    named = next((known for known in known_models().values() if known.file == path.name), None)
    try:
        if named is None or named.matches(path):
            return named
    except OSError:
        return None
    log.warning("%s is not the published %s (its checksum differs): its card is not applied", path, named.name)
    return None


def labels_named(name: str) -> tuple[str, ...]:
    """Return the class names of a well-known data set ('imagenet', 'coco'); () if there is no such list."""
    path = LABELS / f"{name}.txt"
    if not name.isidentifier() or not path.is_file():
        return ()
    return tuple(path.read_text(encoding="utf-8").splitlines())


def labels_of_net(net: str, count: int) -> tuple[str, ...]:
    """Return the class names that a net with `count` outputs was published with; () if they are not known."""
    known = known_models().get(net)
    return known.labels if known and len(known.labels) == count else ()


def _model(name: str, row: dict[str, Any]) -> KnownModel:
    labels = row["labels"]
    card = {
        "task": row["task"],
        "labels": labels_named(labels) if isinstance(labels, str) else tuple(labels),
        "colour": row["colour"],
        "mean": tuple(row["mean"]),
        "std": tuple(row["std"]),
        "accuracy": row["scores"],
        "licence": row["licence"],
        "head": row.get("head", ""),
    }
    return KnownModel(
        name=name,
        file=row["file"],
        url=f"{row['url']}/{row['file']}",
        sha256=row["sha256"],
        size=row.get("bytes", 0),
        input_shape=tuple(row["input"]),
        fit=row["fit"],
        mmac=row["mmac"],
        terms=row["terms"],
        licence_url=row["licence_url"],
        card={key: value for key, value in card.items() if key in _CARD_FIELDS},
    )


_CARD_FIELDS = {item.name for item in fields(ModelCard)}


def _cache_folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return this user's cache of models, and that of the user behind sudo."""
    home = environ.get("XDG_CACHE_HOME", "")
    folders = [(Path(home) if home.startswith("/") else Path("~/.cache").expanduser()) / "camapp" / "models"]
    if user := environ.get("SUDO_USER"):
        folders.append(Path(f"~{user}/.cache/camapp/models").expanduser())
    return folders


@functools.lru_cache(maxsize=32)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Return a file's checksum; size and time of change are only part of the key."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()
