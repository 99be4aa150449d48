"""A stream of batches through a worker pool: results in the batches' order, none lost or doubled when workers die."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from camapp.core.errors import PoolError
from camapp.workers.pool import START_TIMEOUT, STOPPED, Outcome, OwnJob, WorkerPool
from camapp.workers.slots import Slot
from engine.model import Model

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")
Result = TypeVar("Result")

TRIES = 3
_TICK = 0.05
# Batches that may wait, done, behind one that is not, by slot: bounds memory when one batch takes long.
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
    """What a kind of batch needs.

    Attributes:
        write: puts a batch into a slot; gives the number of items there, and the message for workers with a job.
        read: makes the result of a batch that is done, in the pool's thread; the slot is given back after it.
        give_up: makes the result of one whose workers died again and again, with the last error.
        split: makes several of a batch that failed, to part what is bad from what is good.
    """

    write: Callable[[Batch, Slot], tuple[int, bytes]]
    read: Callable[[Batch, Outcome], Result]
    give_up: Callable[[Batch, str], Result]
    split: Callable[[Batch], list[Batch]] = lambda batch: [batch]


class OrderedRun(Generic[Batch, Result]):
    """Runs batches on processes of its own.

    A batch whose worker died is split and done again, each part at most `TRIES` times in all; then it is given up.

    Args:
        model: to run.
        work: what the batches are.
        max_items: items that a slot holds.
        workers: processes.
        threads: BLAS threads of each.
        own_job: as `WorkerPool` takes it.
    """

    def __init__(
        self,
        model: Model,
        work: Work[Batch, Result],
        max_items: int,
        workers: int,
        threads: int = 1,
        own_job: OwnJob | None = None,
    ) -> None:
        spare = workers + 1  # so that no worker waits for its next batch
        self.pool = WorkerPool(model, max_items, workers, threads, spare, self._on_outcome, own_job)
        self._work = work
        self._window = _WINDOW * (workers + spare)
        self._order: deque[_Entry[Batch, Result]] = deque()
        self._again: deque[_Entry[Batch, Result]] = deque()
        self._given: dict[int, _Entry[Batch, Result]] = {}
        self._token = 0
        self._changed = threading.Condition()

    def results(self, batches: Iterable[Batch], stop: Callable[[], bool] = lambda: False) -> Iterator[Result]:
        """One result a batch (or part of one, where it was split), in order.

        Args:
            batches: taken as there is room for them.
            stop: asked often; once true no more are taken, and those under way are finished.

        Raises:
            PoolError: the workers would not start or stay alive.
        """
        source = iter(batches)
        try:
            self.pool.start()
            if not self.pool.wait_ready(START_TIMEOUT):
                raise PoolError(f"no worker process was ready within {START_TIMEOUT:.0f} s")
            more = True
            while more or self._order:
                more = more and not stop()
                if self.pool.error is not None:
                    raise self.pool.error
                if self._again or (more and len(self._order) < self._window):
                    more = self._submit(source) and more
                else:
                    with self._changed:
                        self._changed.wait_for(self._can_go_on, _TICK)
                yield from self._finished()
        finally:
            self.pool.stop()

    def _submit(self, source: Iterator[Batch]) -> bool:
        """Hand on one batch if a slot is free; False when there are no more."""
        slot = self.pool.acquire(_TICK)
        if slot is None:
            return True
        with self._changed:
            entry = self._again.popleft() if self._again else None
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
            self._given[self._token] = entry
        self.pool.submit(slot, self._token, items, message)
        return True

    def _finished(self) -> Iterator[Result]:
        while self._order and self._order[0].done:
            with self._changed:
                entry = self._order.popleft()
            yield self._work.give_up(entry.batch, entry.error) if entry.error else entry.result  # type: ignore[misc]

    def _can_go_on(self) -> bool:
        return bool(self._again) or (bool(self._order) and self._order[0].done)

    # -- the pool's thread

    def _on_outcome(self, outcome: Outcome) -> None:
        with self._changed:
            entry = self._given.pop(outcome.token)
        try:
            if not outcome.error:
                entry.result = self._work.read(entry.batch, outcome)
        finally:
            self.pool.release(outcome.slot)
        if outcome.error == STOPPED or self.pool.error is not None:
            return  # nobody waits for it any more
        with self._changed:
            if not outcome.error or entry.tries >= TRIES:
                entry.error = outcome.error
                entry.done = True
            else:
                self._do_again(entry)
            self._changed.notify_all()

    def _do_again(self, entry: _Entry[Batch, Result]) -> None:
        parts = [_Entry[Batch, Result](batch, entry.tries) for batch in self._work.split(entry.batch)]
        log.warning("a batch is done again, in %d parts", len(parts))
        place = self._order.index(entry)
        self._order.rotate(-place)
        self._order.popleft()
        self._order.extendleft(reversed(parts))
        self._order.rotate(place)
        self._again.extend(parts)
