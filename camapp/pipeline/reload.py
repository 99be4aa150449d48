"""Applies changed settings and model files during the run: on SIGHUP, and if the model's file changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from camapp.core.errors import PoolError, SettingsError
from camapp.core.models import identity_of
from camapp.core.settings import DetectSettings, ModelSettings, Settings
from camapp.pipeline.pipeline import Pipeline
from engine.model import ModelError

log = logging.getLogger(__name__)

_CHECK_EVERY = 1.0
# The model's settings and these can change during the run; all others need a restart.
_RELOADABLE = {item.name for group in (ModelSettings, DetectSettings) for item in fields(group)} | {"target_fps", "hud"}


class Reloader:
    """Waits for requests and for a changed model file in a background thread.

    An error in the new settings or the new file is logged, and the run continues with the old ones.

    Args:
        reread: reads the settings again, from the same command line, file and environment; raises SettingsError.
    """

    def __init__(self, pipeline: Pipeline, reread: Callable[[], Settings], check_every: float = _CHECK_EVERY) -> None:
        self._pipeline = pipeline
        self._reread = reread
        self._check_every = check_every
        # Unlike a lock or an Event, its `put` is reentrant, as a signal handler needs.
        self._requests: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._loaded = self._seen = identity_of(pipeline.settings)
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def request(self) -> None:
        """Reload soon; safe to call from a signal handler."""
        self._requests.put(None)

    def stop(self) -> None:
        """End the thread; the stop of the pipeline ends a model change in progress."""
        self._stopping = True
        self._requests.put(None)

    def _watch(self) -> None:
        while not self._stopping:
            if self._is_requested():
                self._reload()
            elif not self._stopping and self._has_settled():
                log.info("the model's file has changed: %s", self._pipeline.settings.model)
                self._change({})

    def _is_requested(self) -> bool:
        """Wait for requests until the next check of the file; several waiting requests count as one."""
        try:
            self._requests.get(timeout=self._check_every)
        except Empty:
            return False
        while not self._requests.empty():
            self._requests.get()
        return not self._stopping

    def _has_settled(self) -> bool:
        """Return whether the file differs from the loaded one and is unchanged since the last check: it is complete."""
        before, self._seen = self._seen, identity_of(self._pipeline.settings)
        return self._seen is not None and self._seen == before and self._seen != self._loaded

    def _reload(self) -> None:
        try:
            wanted = self._reread()
        except SettingsError as error:
            log.error("settings not reloaded: %s; the old ones stay in use", error)
            return
        old = self._pipeline.settings
        changed = {item.name for item in fields(Settings) if getattr(wanted, item.name) != getattr(old, item.name)}
        if restart := sorted(changed - _RELOADABLE):
            log.warning("changed, but applied only after a restart: %s", ", ".join(restart))
        self._change({name: getattr(wanted, name) for name in changed & _RELOADABLE})

    def _change(self, changes: dict[str, Any]) -> None:
        settings = replace(self._pipeline.settings, **changes)
        self._loaded = self._seen = identity_of(settings)
        try:
            self._pipeline.apply(lambda now: replace(now, **changes))
        except (ModelError, PoolError, OSError) as error:
            log.error("model not changed: %s; the old one stays in use", error)
        else:
            log.info("running model %s with the new settings", Path(settings.model).name)
