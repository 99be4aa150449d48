"""Loads a model with its task and workers, and replaces the model in use between two frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from camapp.core.errors import PoolError
from camapp.core.labels import knowledge
from camapp.core.models import identity_of, load_model
from camapp.core.settings import Settings
from camapp.system.process import limit_blas
from camapp.tasks.task import Task, task_for
from camapp.workers.pool import Outcome, WorkerPool
from camapp.workers.shared_pool import MakePool, Pool, SharedWorkers
from engine.model import Model

_TICK = 0.05
# Limit in seconds for the frames that a retiring model has begun.
_DRAIN_S = 5.0


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with its task, and what its workers are made from.

    Attributes:
        identity: equal for two models whose net and parameters are the same.
        knows: what the model knows, in words.
    """

    name: str
    model: Model
    task: Task
    identity: Hashable
    make_pool: MakePool
    knows: str


def load_for_workers(
    settings: Settings,
    model: Model | None = None,
    *,
    workers: int,
    shared: SharedWorkers | None,
    own_task: type[Task] | None,
) -> LoadedModel:
    """Load the model of the settings, or take `model`, and create its task, or one of `own_task`. Raises BadModel.

    It runs in workers of its own, in those shared with other cameras, or in none if the task infers nothing.
    """
    with limit_blas(settings.threads):
        model = model or load_model(settings)
        task = task_for(settings, model.card, own_task)
    identity = identity_of(settings)

    def make_own(model: Model, max_items: int, spare_slots: int, on_outcome: Callable[[Outcome], None]) -> Pool:
        return WorkerPool(model, max_items, workers if task.infers else 0, settings.threads, spare_slots, on_outcome)

    make_pool = partial(shared.share, identity) if shared else make_own
    name = Path(settings.model).name
    return LoadedModel(name, model, task, identity, make_pool, knowledge(task.card))


@dataclass(frozen=True, eq=False)
class Generation:
    """A model in use and its workers. A new model is a new generation."""

    loaded: LoadedModel
    pool: Pool


class ModelSwap:
    """Holds the current generation and replaces it.

    Args:
        feeding: whether the thread that calls `enter` is alive.
        finish: publishes the results that are ready.

    Attributes:
        current: the generation for new frames.
        lock: held during a change.
    """

    def __init__(
        self,
        first: LoadedModel,
        make_pool: Callable[[LoadedModel], Pool],
        feeding: Callable[[], bool],
        stopping: threading.Event,
        finish: Callable[[], None],
    ) -> None:
        self._make_pool = make_pool
        self.current = self._entered = Generation(first, make_pool(first))
        self.lock = threading.Lock()
        self._feeding = feeding
        self._stopping = stopping
        self._finish = finish
        self._retired_restarts = 0

    @property
    def restarts(self) -> int:
        """Number of workers replaced so far, those of earlier generations included."""
        return self._retired_restarts + self.current.pool.restarts

    def enter(self) -> Generation:
        """Return the generation for the next frame; the one before is no longer used for new frames."""
        generation = self._entered = self.current
        return generation

    def apply(self, loaded: LoadedModel) -> None:
        """Replace the model between two frames; the old one finishes the frames that it has begun.

        The old one stays in use until a worker of the new one has run its model, and if that fails. If the net and the
        number of items are the same, the workers stay.

        Raises:
            PoolError: no worker could run the new model.
        """
        with self.lock:
            old, before = self.current, self.current.loaded
            if loaded.identity == before.identity and loaded.task.max_items == before.task.max_items:
                loaded.task.take_over(before.task)
                self.current = replace(old, loaded=loaded)
                return
            new = Generation(loaded, self._make_pool(loaded))
            new.pool.start()
            try:
                ready = until_ready(new.pool, lambda: not self._stopping.is_set())
            except PoolError:
                new.pool.stop()
                raise
            if not ready:
                new.pool.stop()
                return
            loaded.task.take_over(before.task)
            self.current = new
            # No further frame enters the old one; wait for the frame in preparation, which may.
            while self._entered is old and self._feeding():
                time.sleep(_TICK / 10)
            self._retired_restarts += old.pool.restarts
            deadline = time.monotonic() + _DRAIN_S
            while not old.pool.drain(_TICK) and time.monotonic() < deadline and not self._stopping.is_set():
                pass
            old.pool.stop()
            self._finish()


def until_ready(pool: Pool, wanted: Callable[[], bool]) -> bool:
    """Wait for a worker of the pool.

    Args:
        wanted: called in every step of the wait; False ends it.

    Returns:
        Whether a worker is ready and still wanted.

    Raises:
        PoolError: no worker has started.
    """
    deadline = time.monotonic() + pool.start_s
    while wanted():
        if pool.wait_ready(_TICK):
            return wanted()
        if time.monotonic() > deadline:
            raise PoolError(f"no worker process was ready within {pool.start_s:.0f} s")
    return False
