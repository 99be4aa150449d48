"""Runs a stream of batches on a worker pool: results in order, none lost or doubled if workers die."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from camapp.core.errors import PoolError
from camapp.workers.pool import STOPPED, Outcome, OwnJob, WorkerPool
from camapp.workers.slots import Slot
from camapp.workers.supervision import DEFAULT_LIMITS, PoolLimits
from engine.model import Model

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")
Result = TypeVar("Result")

MAX_TRIES = 3
_TICK = 0.05
# Batches per slot that may wait, done, behind one that is not: bounds memory if one batch takes long.
_WINDOW = 4


@dataclass(eq=False)
class _Entry(Generic[Batch, Result]):
    batch: Batch
    tries: int = 0
    done: bool = False
    result: Result | None = None
    error: str = ""


@dataclass(frozen=True)
class Work(Generic[Batch, Result]):
    """Functions that handle one kind of batch.

    Attributes:
        write: writes a batch into a slot; returns the number of items, and the message for workers with a job.
        read: makes the result of a finished batch, in the pool's thread, before the slot is released.
        give_up: makes the result of a batch that failed `MAX_TRIES` times, from its last error.
        split: splits a batch that failed, to separate the bad items from the good ones.
    """

    write: Callable[[Batch, Slot], tuple[int, bytes]]
    read: Callable[[Batch, Outcome], Result]
    give_up: Callable[[Batch, str], Result]
    split: Callable[[Batch], list[Batch]] = lambda batch: [batch]


class OrderedRun(Generic[Batch, Result]):
    """Runs batches on its own worker processes.

    A batch whose worker died is split and run again, each part at most `MAX_TRIES` times in all; then it is given up.

    Args:
        work: handles the batches.
        max_items: items that a slot holds; all others as in `WorkerPool`.
    """

    def __init__(
        self,
        model: Model,
        work: Work[Batch, Result],
        max_items: int,
        workers: int,
        threads: int = 1,
        own_job: OwnJob | None = None,
        limits: PoolLimits = DEFAULT_LIMITS,
    ) -> None:
        # With these no worker waits for its next batch.
        spare = workers + 1
        self.pool = WorkerPool(model, max_items, workers, threads, spare, self._on_outcome, own_job, limits)
        self._work = work
        self._window = _WINDOW * (workers + spare)
        self._order: deque[_Entry[Batch, Result]] = deque()
        self._retries: deque[_Entry[Batch, Result]] = deque()
        self._submitted: dict[int, _Entry[Batch, Result]] = {}
        self._token = 0
        self._changed = threading.Condition()

    def results(self, batches: Iterable[Batch], stop: Callable[[], bool] = lambda: False) -> Iterator[Result]:
        """Yield one result a batch (or a part of one, if it was split), in order.

        Args:
            batches: read as there is room for them.
            stop: checked often; once true no more are read, and the submitted ones are finished.

        Raises:
            PoolError: the workers do not start, or the restart budget is spent.
        """
        source = iter(batches)
        try:
            self.pool.start()
            if not self.pool.wait_ready(self.pool.start_s):
                raise PoolError(f"no worker process was ready within {self.pool.start_s:.0f} s")
            more = True
            while more or self._order:
                more = more and not stop()
                if self.pool.error is not None:
                    raise self.pool.error
                if self._retries or (more and len(self._order) < self._window):
                    more = self._submit(source) and more
                else:
                    with self._changed:
                        self._changed.wait_for(self._has_work, _TICK)
                yield from self._finished()
        finally:
            self.pool.stop()

    def _submit(self, source: Iterator[Batch]) -> bool:
        """Submit a batch if a slot is free; return False if there are no more."""
        slot = self.pool.acquire(_TICK)
        if slot is None:
            return True
        with self._changed:
            entry = self._retries.popleft() if self._retries else None
        if entry is None:
            try:
                entry = _Entry(next(source))
            except StopIteration:
                self.pool.release(slot)
                return False
            with self._changed:
                self._order.append(entry)
        entry.tries += 1
        items, message = self._work.write(entry.batch, slot)
        self._token += 1
        with self._changed:
            self._submitted[self._token] = entry
        self.pool.submit(slot, self._token, items, message)
        return True

    def _finished(self) -> Iterator[Result]:
        while self._order and self._order[0].done:
            with self._changed:
                entry = self._order.popleft()
            yield self._work.give_up(entry.batch, entry.error) if entry.error else entry.result  # type: ignore[misc]

    def _has_work(self) -> bool:
        return bool(self._retries) or (bool(self._order) and self._order[0].done)

    # -- the pool's thread

    def _on_outcome(self, outcome: Outcome) -> None:
        with self._changed:
            entry = self._submitted.pop(outcome.token)
        try:
            if not outcome.error:
                entry.result = self._work.read(entry.batch, outcome)
        finally:
            self.pool.release(outcome.slot)
        if outcome.error == STOPPED or self.pool.error is not None:
            return  # its result is not needed any more
        with self._changed:
            if not outcome.error or entry.tries >= MAX_TRIES:
                entry.error = outcome.error
                entry.done = True
            else:
                self._retry(entry)
            self._changed.notify_all()

    def _retry(self, entry: _Entry[Batch, Result]) -> None:
        parts = [_Entry[Batch, Result](batch, entry.tries) for batch in self._work.split(entry.batch)]
        log.warning("a batch is run again, in %d parts", len(parts))
        index = self._order.index(entry)
        self._order.rotate(-index)
        self._order.popleft()
        self._order.extendleft(reversed(parts))
        self._order.rotate(index)
        self._retries.extend(parts)
