"""Remembers over a restart what was published to a broker, so that what is no longer published can be removed there."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from camapp.core.files import write_atomic

log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20
# Components kept as removed, for a Home Assistant that is away now; the newest ones.
_MAX_COMPONENTS = 400


@dataclass
class Published:
    """Lists what a device has published.

    Attributes:
        components: platform of each component of a discovery message, by its name, oldest first.
        tasks: task of each camera, by its name.
        seen: labels that were counted, by camera.
    """

    components: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=dict)


class Memory:
    """Keeps what a device has published to one broker in a file of the state directory.

    Args:
        folder: of the state; None keeps nothing over a restart.
        broker: address and prefix; what was published to another broker is forgotten.
    """

    def __init__(self, folder: Path | None, broker: str, device: str) -> None:
        self._path = None if folder is None else folder / f"mqtt-{device}.json"
        self._broker = broker
        self._saved = ""
        self._is_warned = False
        self.published = self._load()

    def add_components(self, components: dict[str, str]) -> None:
        """Add the components of a message, as the newest."""
        known = self.published.components
        kept = {name: platform for name, platform in known.items() if name not in components}
        self.published.components = dict(list((kept | components).items())[-_MAX_COMPONENTS:])

    def save(self) -> None:
        """Write the file if anything has changed; a failure is logged once, and costs only the memory."""
        text = json.dumps({"broker": self._broker, **asdict(self.published)}, indent=1) + "\n"
        if self._path is None or text == self._saved:
            return
        self._saved = text
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, text.encode())
        except OSError as error:
            if not self._is_warned:
                what = "entities of this run that the next one lacks will stay in Home Assistant"
                log.warning("cannot write '%s': %s; %s", self._path, error.strerror, what)
            self._is_warned = True

    def _load(self) -> Published:
        if self._path is None:
            return Published()
        try:
            with self._path.open("rb") as file:
                record = json.loads(file.read(_MAX_BYTES))
            if record["broker"] != self._broker:
                return Published()
            return Published(
                {str(name): str(platform) for name, platform in record["components"].items()},
                {str(name): str(task) for name, task in record["tasks"].items()},
                {str(name): [str(label) for label in labels] for name, labels in record["seen"].items()},
            )
        except FileNotFoundError:
            return Published()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be used and is ignored: %s", self._path, error)
            return Published()
