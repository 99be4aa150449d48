"""Takes up changed settings and model files while the run goes on: on SIGHUP, and when the model's file changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from queue import Empty, SimpleQueue

from camapp.core.errors import PoolError, SettingsError
from camapp.core.models import identity_of
from camapp.core.settings import ModelSettings, Settings
from camapp.pipeline.pipeline import Pipeline
from engine.model import ModelError

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
# Everything about the model can change under way, and these; the rest waits for a restart.
_RELOADABLE = {item.name for item in fields(ModelSettings)} | {"target_fps", "hud"}


class Reloader:
    """Watches for requests and for a changed model file, in a thread of its own.

    Whatever is wrong with the new settings or the new file is logged, and the run goes on with the old ones.

    Args:
        pipeline: the run.
        reread: gives the settings anew, from the same command line, file and environment; raises SettingsError.
        look_every: seconds between two looks at the model's file.
    """

    def __init__(self, pipeline: Pipeline, reread: Callable[[], Settings], look_every: float = _LOOK_EVERY) -> None:
        self._pipeline = pipeline
        self._reread = reread
        self._look_every = look_every
        # Its `put`, unlike a lock or an Event, may interrupt itself: a signal handler calls it.
        self._orders: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._loaded = self._seen = identity_of(pipeline.settings)
        self._thread = threading.Thread(target=self._watch, name="reload", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def request(self) -> None:
        """Reload soon; safe to call from a signal handler."""
        self._orders.put(None)

    def stop(self) -> None:
        """Stop watching; a model that is just being loaded is left to the pipeline's own stop."""
        self._stopping = True
        self._orders.put(None)

    def _watch(self) -> None:
        while not self._stopping:
            if self._is_ordered():
                self._reload()
            elif not self._stopping and self._has_settled():
                log.info("the model's file has changed: %s", self._pipeline.settings.model)
                self._change(self._pipeline.settings)

    def _is_ordered(self) -> bool:
        """Wait for orders until it is time to look at the file; any number of them at once are one."""
        try:
            self._orders.get(timeout=self._look_every)
        except Empty:
            return False
        while not self._orders.empty():
            self._orders.get()
        return not self._stopping

    def _has_settled(self) -> bool:
        """The file is another than the loaded one, and the same as at the last look: it is written to its end."""
        was, self._seen = self._seen, identity_of(self._pipeline.settings)
        return self._seen is not None and self._seen == was and self._seen != self._loaded

    def _reload(self) -> None:
        try:
            wanted = self._reread()
        except SettingsError as error:
            log.error("settings not reloaded: %s; the old ones stay", error)
            return
        old = self._pipeline.settings
        changed = {item.name for item in fields(Settings) if getattr(wanted, item.name) != getattr(old, item.name)}
        if waiting := sorted(changed - _RELOADABLE):
            log.warning("changed, but only a restart can take it up: %s", ", ".join(waiting))
        self._change(replace(old, **{name: getattr(wanted, name) for name in changed & _RELOADABLE}))

    def _change(self, settings: Settings) -> None:
        self._loaded = self._seen = identity_of(settings)
        try:
            self._pipeline.apply(settings)
        except (ModelError, PoolError, OSError) as error:
            log.error("model not changed: %s; the old one stays", error)
        else:
            log.info("running model %s with the settings of now", Path(settings.model).name)
