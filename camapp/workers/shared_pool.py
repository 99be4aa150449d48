"""Shares one worker pool among cameras with the same model; each camera uses its share like its own pool."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import replace

from camapp.core.errors import PoolError
from camapp.workers.pool import STOPPED, Outcome, WorkerPool
from camapp.workers.slots import Slot
from engine.model import Model


class SharedWorkers:
    """Gives all cameras with the same key a share in one pool of `workers` processes, each with `threads` for BLAS."""

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self._threads = threads
        self._pools: dict[Hashable, _Shared] = {}
        self._lock = threading.Lock()

    def share(
        self, key: Hashable, model: Model, max_items: int, spare_slots: int, on_outcome: Callable[[Outcome], None]
    ) -> Share:
        """Return a share in the pool of `key`, which identifies everything that a worker's results depend on."""
        full_key = (key, max_items, spare_slots)
        with self._lock:
            shared = self._pools.get(full_key)
            if shared is not None and (share := shared.enter(on_outcome)) is not None:
                return share
            shared = self._pools[full_key] = _Shared(model, max_items, self.workers, self._threads, spare_slots)
            share = shared.enter(on_outcome)
            assert share is not None
            return share


class _Shared:
    """Owns the pool of several shares: routes the outcomes, and stops with the last share."""

    def __init__(self, model: Model, max_items: int, workers: int, threads: int, spare_slots: int) -> None:
        self.pool = WorkerPool(model, max_items, workers, threads, spare_slots, self._route)
        self._is_closed = False
        self.lock = threading.Condition()
        # The share that has waited longest is next: a camera that always has a frame ready cannot starve the others.
        self.waiting: deque[Share] = deque()
        self.jobs: dict[int, tuple[Share, int, Slot, int]] = {}
        self._members = 0
        self._started = False
        self._tokens = 0

    def enter(self, on_outcome: Callable[[Outcome], None]) -> Share | None:
        """Return a new share; None if the last one has left."""
        with self.lock:
            if self._is_closed:
                return None
            self._members += 1
        return Share(self, on_outcome)

    def start(self) -> None:
        with self.lock:
            started, self._started = self._started, True
        if not started:
            self.pool.start()

    def submit(self, share: Share, slot: Slot, token: int, items: int) -> None:
        with self.lock:
            self._tokens += 1
            pool_token = self._tokens
            self.jobs[pool_token] = (share, token, slot, items)
        self.pool.submit(slot, pool_token, items)

    def leave(self, timeout: float) -> None:
        with self.lock:
            self._members -= 1
            last = self._is_closed = not self._members
        if last:
            self.pool.stop(timeout)

    def _route(self, outcome: Outcome) -> None:
        with self.lock:
            share, token, *_ = self.jobs.pop(outcome.token, (None, 0))
        if share is None:  # its camera has stopped; until now the worker used the slot
            self.pool.release(outcome.slot)
        else:
            share.take(replace(outcome, token=token))


class Share:
    """One camera's share of a pool, with a pool's methods; made by `SharedWorkers.share`."""

    def __init__(self, shared: _Shared, on_outcome: Callable[[Outcome], None]) -> None:
        self._shared = shared
        self._on_outcome = on_outcome
        self._busy_ns = 0
        self._abandoned: set[int] = set()

    @property
    def error(self) -> PoolError | None:
        """Return the error that stopped the workers of all shares, if any."""
        return self._shared.pool.error

    @property
    def restarts(self) -> int:
        """Return the number of workers replaced so far, for all shares."""
        return self._shared.pool.restarts

    @property
    def start_s(self) -> float:
        """Return the seconds within which a worker has to be ready."""
        return self._shared.pool.start_s

    def start(self) -> None:
        """Start the workers unless another share has."""
        self._shared.start()

    def wait_ready(self, timeout: float) -> bool:
        """Return whether a worker is ready within `timeout` seconds. Raises PoolError if none will be."""
        return self._shared.pool.wait_ready(timeout)

    def acquire(self, timeout: float) -> Slot | None:
        """Return a free slot with an idle worker, in turn with the other shares; None if none within `timeout` s."""
        shared = self._shared
        deadline = time.monotonic() + timeout
        with shared.lock:
            if self not in shared.waiting:
                shared.waiting.append(self)
            if not shared.lock.wait_for(lambda: shared.waiting[0] is self, timeout):
                return None  # this share keeps its place in the queue
        slot = shared.pool.acquire(max(0.0, deadline - time.monotonic()))
        if slot is not None:
            self._leave_queue()
        return slot

    def submit(self, slot: Slot, token: int, items: int) -> None:
        """Run a written slot; `on_outcome` follows."""
        self._shared.submit(self, slot, token, items)

    def release(self, slot: Slot) -> None:
        """Return a slot."""
        if slot.index in self._abandoned:
            self._abandoned.discard(slot.index)  # a worker may still write into it: `_route` frees it
        else:
            self._shared.pool.release(slot)

    def busy_seconds(self) -> float:
        """Return the inference time of this share's frames, summed."""
        return self._busy_ns / 1e9

    def processes(self) -> list[int]:
        """Return the process ids of the live workers."""
        return self._shared.pool.processes()

    def bounded_step(self) -> str:
        """See `WorkerPool.bounded_step`."""
        return self._shared.pool.bounded_step()

    def drain(self, timeout: float) -> bool:
        """Wait for every job of this share to end; return whether none is left."""
        deadline = time.monotonic() + timeout
        with self._shared.lock:
            self._shared.lock.wait_for(lambda: self.error is not None or not self._has_jobs(), timeout)
        # A failing pool ends its jobs in its own thread.
        while self._has_jobs() and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._has_jobs()

    def stop(self, timeout: float = 1.0) -> None:
        """Report unfinished jobs as failed outcomes and leave the pool; the last share stops the workers."""
        self._leave_queue()
        with self._shared.lock:
            jobs = {pool_token: job for pool_token, job in self._shared.jobs.items() if job[0] is self}
            for pool_token in jobs:
                del self._shared.jobs[pool_token]
        for _, token, slot, items in jobs.values():
            self._abandoned.add(slot.index)
            self._on_outcome(Outcome(token, slot, items, error=STOPPED))
        self._shared.leave(timeout)

    def take(self, outcome: Outcome) -> None:
        """Report an outcome of this share; called in the pool's thread."""
        self._busy_ns += outcome.infer_end - outcome.infer_start
        self._on_outcome(outcome)
        with self._shared.lock:
            self._shared.lock.notify_all()

    def _has_jobs(self) -> bool:
        return any(job[0] is self for job in list(self._shared.jobs.values()))

    def _leave_queue(self) -> None:
        with self._shared.lock:
            if self in self._shared.waiting:
                self._shared.waiting.remove(self)
            self._shared.lock.notify_all()


Pool = WorkerPool | Share
MakePool = Callable[[Model, int, int, Callable[[Outcome], None]], Pool]
"""(model, max_items, spare_slots, on_outcome) -> a pool that is not started yet."""
