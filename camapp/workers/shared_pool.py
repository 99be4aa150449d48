"""Workers that several cameras with the same model take turns at: each sees a pool of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Protocol

from camapp.core.errors import PoolError
from camapp.workers.pool import STOPPED, Outcome, WorkerPool
from camapp.workers.slots import Slot
from engine.model import Model


class Pool(Protocol):
    """What the inference stage asks of its workers (see `WorkerPool`)."""

    @property
    def error(self) -> PoolError | None: ...  # noqa: D102
    @property
    def restarts(self) -> int: ...  # noqa: D102
    def start(self) -> None: ...  # noqa: D102
    def wait_ready(self, timeout: float) -> bool: ...  # noqa: D102
    def acquire(self, timeout: float) -> Slot | None: ...  # noqa: D102
    def submit(self, slot: Slot, token: int, items: int) -> None: ...  # noqa: D102
    def release(self, slot: Slot) -> None: ...  # noqa: D102
    def busy_seconds(self) -> float: ...  # noqa: D102
    def processes(self) -> list[int]: ...  # noqa: D102
    def bounded_step(self) -> str: ...  # noqa: D102
    def drain(self, timeout: float) -> bool: ...  # noqa: D102
    def stop(self, timeout: float = 1.0) -> None: ...  # noqa: D102


MakePool = Callable[[Model, int, int, Callable[[Outcome], None]], Pool]
"""(model, max_items, spare_slots, on_outcome) -> its pool, not yet started."""


class SharedWorkers:
    """Gives every camera that comes with the same key a share in one pool.

    Args:
        workers: processes of each pool.
        threads: BLAS threads of each process.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self._threads = threads
        self._pools: dict[Hashable, _Shared] = {}
        self._lock = threading.Lock()

    def share(
        self, key: Hashable, model: Model, max_items: int, spare_slots: int, on_outcome: Callable[[Outcome], None]
    ) -> Share:
        """A share in the pool of that key, which names all that a worker's work depends on."""
        whole = (key, max_items, spare_slots)
        with self._lock:
            shared = self._pools.get(whole)
            if shared is None or shared.closed:
                shared = self._pools[whole] = _Shared(model, max_items, self.workers, self._threads, spare_slots)
            return shared.enter(on_outcome)


class _Shared:
    """The pool behind its shares: passes outcomes on, and stops with the last share."""

    def __init__(self, model: Model, max_items: int, workers: int, threads: int, spare_slots: int) -> None:
        self.pool = WorkerPool(model, max_items, workers, threads, spare_slots, self._route)
        self.closed = False
        self.lock = threading.Condition()
        # Whoever waits longest is next: a camera that always has a frame ready cannot starve the others.
        self.waiting: deque[Share] = deque()
        self.jobs: dict[int, tuple[Share, int, Slot, int]] = {}
        self._members = 0
        self._started = False
        self._tokens = 0

    def enter(self, on_outcome: Callable[[Outcome], None]) -> Share:
        with self.lock:
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
            ours = self._tokens
            self.jobs[ours] = (share, token, slot, items)
        self.pool.submit(slot, ours, items)

    def leave(self, timeout: float) -> None:
        with self.lock:
            self._members -= 1
            self.closed = self.closed or not self._members
            last = not self._members
        if last:
            self.pool.stop(timeout)

    def _route(self, outcome: Outcome) -> None:
        with self.lock:
            share, token, *_ = self.jobs.pop(outcome.token, (None, 0))
        if share is None:  # its camera has left, and only now is the slot free
            self.pool.release(outcome.slot)
        else:
            share.take(replace(outcome, token=token))


class Share:
    """One camera's part in a shared pool, with a pool's methods; made by `SharedWorkers.share`."""

    def __init__(self, shared: _Shared, on_outcome: Callable[[Outcome], None]) -> None:
        self._shared = shared
        self._on_outcome = on_outcome
        self._busy_ns = 0
        self._given_up: set[int] = set()

    @property
    def error(self) -> PoolError | None:
        """Why the workers cannot go on, which is the same for all shares."""
        return self._shared.pool.error

    @property
    def restarts(self) -> int:
        """Workers replaced so far, whosever frame they held."""
        return self._shared.pool.restarts

    def start(self) -> None:
        """Start the workers, if no other share has."""
        self._shared.start()

    def wait_ready(self, timeout: float) -> bool:
        """Whether a worker is ready within `timeout` seconds. Raises PoolError when none will be."""
        return self._shared.pool.wait_ready(timeout)

    def acquire(self, timeout: float) -> Slot | None:
        """A free slot and a worker, in turn with the other shares; None if none within `timeout` seconds."""
        shared = self._shared
        deadline = time.monotonic() + timeout
        with shared.lock:
            if self not in shared.waiting:
                shared.waiting.append(self)
            if not shared.lock.wait_for(lambda: shared.waiting[0] is self, timeout):
                return None  # it keeps its place in the queue
        slot = shared.pool.acquire(max(0.0, deadline - time.monotonic()))
        if slot is not None:
            self._leave_queue()
        return slot

    def submit(self, slot: Slot, token: int, items: int) -> None:
        """Hand a written slot over; `on_outcome` follows."""
        self._shared.submit(self, slot, token, items)

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        if slot.index in self._given_up:
            self._given_up.discard(slot.index)  # a worker may still write into it: `_route` frees it
        else:
            self._shared.pool.release(slot)

    def busy_seconds(self) -> float:
        """Time that the workers have spent on this share's frames."""
        return self._busy_ns / 1e9

    def processes(self) -> list[int]:
        """Process ids of the live workers."""
        return self._shared.pool.processes()

    def bounded_step(self) -> str:
        """See `WorkerPool.bounded_step`."""
        return self._shared.pool.bounded_step()

    def drain(self, timeout: float) -> bool:
        """Wait for every job of this share to end; True if none is left."""
        deadline = time.monotonic() + timeout
        with self._shared.lock:
            self._shared.lock.wait_for(lambda: self.error is not None or not self._mine(), timeout)
        # A failing pool ends its jobs from its own thread.
        while self._mine() and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self._mine()

    def stop(self, timeout: float = 1.0) -> None:
        """Leave; jobs not done come back as failed outcomes. The last share stops the workers."""
        self._leave_queue()
        with self._shared.lock:
            mine = [(ours, *job) for ours, job in self._shared.jobs.items() if job[0] is self]
            for ours, *_ in mine:
                del self._shared.jobs[ours]
        for _, _, token, slot, items in mine:
            self._given_up.add(slot.index)
            self._on_outcome(Outcome(token, slot, items, error=STOPPED))
        self._shared.leave(timeout)

    def take(self, outcome: Outcome) -> None:
        """Called in the pool's thread with each outcome of this share."""
        self._busy_ns += outcome.infer_end - outcome.infer_start
        self._on_outcome(outcome)
        with self._shared.lock:
            self._shared.lock.notify_all()

    def _mine(self) -> bool:
        return any(job[0] is self for job in list(self._shared.jobs.values()))

    def _leave_queue(self) -> None:
        with self._shared.lock:
            if self in self._shared.waiting:
                self._shared.waiting.remove(self)
            self._shared.lock.notify_all()
