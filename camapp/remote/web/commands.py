"""Runs the commands of the web page: JSON bodies to commands, results to JSON and to notices for all visitors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from camapp.core.settings import Settings
from camapp.remote.commands import CameraControl, CommandDispatcher, CommandRejected

log = logging.getLogger(__name__)

# Key of a command's value in the body.
_VALUES = {"model": "model", "roi": "roi", "hud": "shown"}


class WebCommands:
    """Translates between JSON and the commands of a `CommandDispatcher`.

    Args:
        cameras: the runs.
        state: folder that keeps regions for the next start.
        metrics: renders the text for Prometheus; None if its package is missing.
        reread: returns a camera's settings as the next start would read them.
        notify: sends all visitors a notice: camera, text, and the client that caused it.
    """

    def __init__(
        self,
        cameras: Sequence[CameraControl],
        state: Path,
        metrics: Callable[[], str] | None,
        reread: Callable[[str], Settings] | None,
        notify: Callable[[str, str, str], None],
    ) -> None:
        self._metrics = metrics
        self._notify = notify
        self._dispatcher = CommandDispatcher(cameras, self._on_saved, state, reread)

    def attach(self) -> None:
        """Add the snapshot sinks to the cameras; once, before the run starts."""
        self._dispatcher.attach()

    def handle(self, command: str, camera: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Run a command, or render the metrics; return the body of the answer. May take seconds.

        Raises:
            CommandRejected: it cannot be run.
        """
        if command == "metrics":
            if self._metrics is None:
                raise CommandRejected(f"metrics need a package: {sys.executable} -m pip install prometheus-client")
            return {"text": self._metrics()}
        result = self._dispatcher.run(command, camera, body.get(_VALUES.get(command, "")))
        if result.text:
            self._notify(camera, result.text, str(body.get("client", "")))
        return result.values

    def _on_saved(self, camera: str, path: Path) -> None:
        log.info("saved '%s'", path)
        self._notify(camera, f"snapshot saved as {path.name}", "")
