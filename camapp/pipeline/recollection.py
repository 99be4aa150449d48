"""Keeps what a run learns of its camera, such as the pitch, and starts the next run from it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from camapp.capture.source import redacted
from camapp.core.log_once import LogOnce
from camapp.pipeline.pipeline import Pipeline
from camapp.system.state_dir import recollect, recollected

log = logging.getLogger(__name__)

# Seconds between two saves, and the change of a value that is worth one: a share of it, or of 5.
_EVERY_S, _CHANGE = 60.0, 0.05


class Recollection:
    """Gives a live camera's task what an earlier run with the same source learned, and saves it once a minute.

    A file gives the same predictions each time, whatever was played before.

    Args:
        folder: the state directory.
    """

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self._pipeline, self._folder = pipeline, folder
        self._source = redacted(pipeline.settings.source)
        self._saved: Mapping[str, float] = {}
        self._due = time.monotonic() + _EVERY_S
        self._log_once = LogOnce(log)
        if pipeline.source.live:
            self._saved = recollected(folder, pipeline.name, self._source)
            pipeline.on_tick(self._tick)
        if self._saved:
            pipeline.task.recall(self._saved)
            log.info("%s starts from the last run: %s (%s)", pipeline.name, _shown(self._saved), folder)

    def save(self) -> None:
        """Save what was learned, if it differs from what is saved; an error is logged once."""
        learned = self._pipeline.task.learned() if self._pipeline.source.live else {}
        if all(_is_close(value, self._saved.get(name)) for name, value in learned.items()):
            return
        try:
            recollect(self._folder, self._pipeline.name, self._source, learned)
            self._saved = learned
        except OSError as error:
            message = "%s cannot be kept for the next start: %s (%s)"
            self._log_once(logging.WARNING, "", message, _shown(learned), error.strerror or error, self._folder)

    def _tick(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _EVERY_S
            self.save()


def _is_close(value: float, saved: float | None) -> bool:
    return saved is not None and abs(value - saved) <= _CHANGE * max(5.0, abs(saved))


def _shown(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
