"""Runs the net in worker processes: hands out slots, collects results, replaces processes that die or hang."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from camapp.core.errors import PoolError
from camapp.system.process import limit_blas
from camapp.system.supervised_process import ChildProcess
from camapp.workers.protocol import PACKET_BYTES, REPLY, STATUS_DONE, STATUS_PART, STATUS_READY, TASK
from camapp.workers.slots import Slot, SlotLayout, Slots
from camapp.workers.supervision import DEFAULT_LIMITS, PoolLimits, WorkerSupervision
from engine.model import Model
from engine.runtime.shared_model import write_shared

log = logging.getLogger(__name__)

# The error of jobs that were not done when the pool was stopped.
STOPPED = "stopped"


@dataclass(frozen=True)
class OwnJob:
    """What workers do with messages instead of running the net from slot to slot.

    Attributes:
        make: 'module:function', called in each worker with the model and `options`; returns a function from a message
            to the pieces of its reply, in bytes.
        options: plain values.
        stuck_after: seconds without a piece (an empty one counts) after which a worker is replaced as hung.
    """

    make: str
    options: dict[str, Any]
    stuck_after: float


@dataclass(frozen=True)
class Outcome:
    """How a job ended. With `error` "" the slot's outputs, or the `reply` of an own job, hold results."""

    token: int
    slot: Slot
    items: int
    infer_start: int = 0
    infer_end: int = 0
    error: str = ""
    reply: bytes = b""


@dataclass
class _Job:
    token: int
    slot: Slot
    items: int
    message: bytes = b""
    parts: list[bytes] = field(default_factory=list)


@dataclass(eq=False)
class _Worker:
    child: ChildProcess
    ready: bool = False
    job: _Job | None = None
    busy_since: float = 0.0


class WorkerPool:
    """Runs one model in a fixed number of worker processes.

    A slot has one owner at a time: the caller that acquired it, then (from `submit` on) the pool, then `on_outcome`,
    which must `release` it. The slot of a dead worker is handed out again only after that process was reaped.

    Frames that are prepared ahead wait for a new worker. Without spare slots they would be lost meanwhile, so one more
    process is on standby, started once the others are ready. The standby is an ordinary worker; the number of slots
    still limits concurrency to `workers`. It exists because starting a process takes over 0.5 s.

    Args:
        model: planned once here; every worker maps the same packed weights.
        max_items: items that a slot holds.
        workers: processes that work at a time; 0 for jobs that are never submitted.
        threads: BLAS threads of each.
        spare_slots: slots beyond one a worker, so that frames can be prepared ahead (0 keeps latency lowest).
        on_outcome: called in the pool's thread, once for each submitted token.
        own_job: what workers do with messages; None runs the net on the slots' inputs.
        limits: of the workers' times and losses.

    Attributes:
        workers: as given.
        error: that stopped the pool, if any.
        start_s: seconds within which a worker has to be ready: those of the limits, and ten times a run of the net.
    """

    def __init__(
        self,
        model: Model,
        max_items: int,
        workers: int,
        threads: int,
        spare_slots: int,
        on_outcome: Callable[[Outcome], None],
        own_job: OwnJob | None = None,
        limits: PoolLimits = DEFAULT_LIMITS,
    ) -> None:
        self.workers = workers
        self.error: PoolError | None = None
        self._threads = threads
        self._on_outcome = on_outcome
        self._poll_s = limits.poll_s
        # Without workers, one slot is handed out and released again.
        spare_slots = spare_slots if workers else max(1, spare_slots)
        self._has_standby = not spare_slots
        item_shape = model.card.input_shape
        with limit_blas(threads):
            plan = model.plan((max_items, *item_shape))
            first_run_s = _first_run_s(model)
        # A worker is ready after its first run, and others run at the same time.
        self.start_s = limits.start_s + limits.stuck_times_p95 * first_run_s
        layout = SlotLayout(
            workers + spare_slots, (max_items, *item_shape), tuple(output.shape for output in plan.outputs)
        )
        stuck_s = own_job.stuck_after if own_job else 0.0
        self._supervision = WorkerSupervision(replace(limits, start_s=self.start_s), stuck_s)
        with contextlib.ExitStack() as undo:
            self._slots = Slots.create(layout)
            undo.callback(self._slots.close)
            self._model_fd = os.memfd_create("camapp-model", os.MFD_CLOEXEC)
            undo.callback(os.close, self._model_fd)
            with os.fdopen(os.dup(self._model_fd), "wb") as file:
                write_shared(model, file)
            undo.pop_all()
        # The workers map it from the file: one copy in memory is enough.
        model.release()
        self._config = json.dumps({"layout": asdict(layout), "job": asdict(own_job) if own_job else None}).encode()
        self._lock = threading.Condition()
        self._free = deque(range(layout.slots))
        self._pending: deque[_Job] = deque()
        self._live: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._busy_ns = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="workers", daemon=True)

    # -- the caller's side

    @property
    def restarts(self) -> int:
        """Return the number of workers replaced so far."""
        return self._supervision.restarts

    def start(self) -> None:
        """Start the thread that starts and serves the processes; they become ready in the background."""
        self._thread.start()

    def wait_ready(self, timeout: float, workers: int = 1) -> bool:
        """Return whether `workers` of them are ready within `timeout` seconds; a pool without any is.

        Raises:
            PoolError: none will be ready.
        """
        with self._lock:

            def are_ready() -> bool:
                return not self.workers or sum(worker.ready for worker in self._live) >= workers

            self._lock.wait_for(lambda: self.error or are_ready(), timeout)
            if self.error:
                raise self.error
            return are_ready()

    def acquire(self, timeout: float) -> Slot | None:
        """Return a free slot, without spare slots only if a worker is idle too; None if none within `timeout` s."""
        with self._lock:
            if not self._lock.wait_for(self._has_room, timeout) or self.error:
                return None
            return self._slots[self._free.popleft()]

    def submit(self, slot: Slot, token: int, items: int, message: bytes = b"") -> None:
        """Run a written slot, or a message (at most MESSAGE_BYTES) with its slot; `on_outcome` follows."""
        with self._lock:
            self._pending.append(_Job(token, slot, items, message))
            self._dispatch()

    def release(self, slot: Slot) -> None:
        """Return a slot."""
        with self._lock:
            self._free.append(slot.index)
            self._lock.notify_all()

    def busy_seconds(self) -> float:
        """Return the inference time of all workers since the start, summed."""
        with self._lock:
            return self._busy_ns / 1e9

    def processes(self) -> list[int]:
        """Return the process ids of the live workers."""
        with self._lock:
            return [worker.child.pid for worker in self._live]

    def bounded_step(self) -> str:
        """Return 'starting workers' or 'inferring' while a worker does that within its time limit, else ""."""
        with self._lock:
            starting = [worker.child.started for worker in self._live if not worker.ready]
            inferring = [worker.busy_since for worker in self._live if worker.job is not None]
            return self._supervision.bounded_step(starting, inferring)

    def drain(self, timeout: float) -> bool:
        """Wait for every submitted job to end; return whether none is left."""
        with self._lock:
            self._lock.wait_for(lambda: self.error is not None or self._is_idle(), timeout)
            return self._is_idle()

    def stop(self, timeout: float = 0.5) -> None:
        """End the processes within about `timeout` seconds; report unfinished jobs as failed outcomes."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(timeout + 1)
        for worker in self._live:
            worker.child.hang_up()
        deadline = time.monotonic() + timeout
        for worker in self._live:
            worker.child.end(max(0.01, deadline - time.monotonic()))
        self._abandon(STOPPED)
        self._live = []
        self._selector.close()
        os.close(self._wake)
        self._slots.close()
        os.close(self._model_fd)

    # -- the pool's thread

    def _serve(self) -> None:
        try:
            # Not in `start`: the kernel kills a worker together with the thread that started it (PR_SET_PDEATHSIG).
            for _ in range(self.workers):
                self._spawn()
            while not self._stopping and self.error is None:
                for key, _ in self._selector.select(self._poll_s):
                    if key.data is not None:  # otherwise `stop` has ended the wait
                        self._receive(key.data)
                self._check_stuck()
        except Exception as error:
            log.debug("pool failed", exc_info=True)
            self._fail(PoolError(f"the worker pool failed: {type(error).__name__}: {error}"))
        if self.error is not None:
            self._abandon(str(self.error))

    def _receive(self, worker: _Worker) -> None:
        try:
            packet = worker.child.socket.recv(PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._replace(worker, "died")
            return
        token, status, start, end = REPLY.unpack_from(packet)
        if status == STATUS_READY:
            with self._lock:
                worker.ready = True
                self._supervision.add_time((end - start) / 1e9)
                self._dispatch()
                self._lock.notify_all()
                standby_due = (
                    self._has_standby and len(self._live) <= self.workers and all(one.ready for one in self._live)
                )
            if standby_due:
                self._spawn()
            return
        if status == STATUS_PART:
            if worker.job is not None:
                worker.job.parts.append(packet[REPLY.size :])
                worker.busy_since = time.monotonic()
            return
        error = "" if status == STATUS_DONE else packet[REPLY.size :].decode(errors="replace") or "unknown error"
        with self._lock:
            job, worker.job = worker.job, None
            if status == STATUS_DONE:
                self._supervision.note_result((end - start) / 1e9)
                self._busy_ns += end - start
                # The worker's next job starts before this one is decoded.
                self._dispatch()
            else:
                worker.ready = False  # it exits now; EOF follows
            self._lock.notify_all()
        if job is None or job.token != token:
            raise RuntimeError(f"worker {worker.child.pid} replied to {token}, which it was not given")
        self._on_outcome(Outcome(job.token, job.slot, job.items, start, end, error, b"".join(job.parts)))

    def _check_stuck(self) -> None:
        for worker in list(self._live):
            busy_since = worker.busy_since if worker.job is not None else None
            if fault := self._supervision.fault(worker.child.started, worker.ready, busy_since):
                self._replace(worker, fault)

    def _replace(self, worker: _Worker, why: str) -> None:
        """Reap a worker, fail its job, and start another if the budget allows."""
        self._selector.unregister(worker.child.socket)
        worker.child.end(0)
        with self._lock:
            self._live.remove(worker)
            exhausted = self._supervision.note_loss()
            job = worker.job
            self._dispatch()
            self._lock.notify_all()
        what = f"worker {worker.child.pid} {why}" + (f" ({worker.child.exit_reason})" if why == "died" else "")
        log.warning("%s; %s", what, "its job is lost" if job else "it had no job")
        if job:
            self._on_outcome(Outcome(job.token, job.slot, job.items, error=f"worker {why.split(' for ')[0]}"))
        if exhausted:
            self._fail(PoolError(f"{exhausted}, the last: {what}"))
        else:
            self._spawn()

    def _fail(self, error: PoolError) -> None:
        with self._lock:
            self.error = error
            self._lock.notify_all()

    def _abandon(self, reason: str) -> None:
        """Report every job that will not be run as failed."""
        with self._lock:
            jobs = list(self._pending) + [worker.job for worker in self._live if worker.job is not None]
            self._pending.clear()
            for worker in self._live:
                worker.job = None
            self._lock.notify_all()
        for job in jobs:
            self._on_outcome(Outcome(job.token, job.slot, job.items, error=reason))

    # -- with the lock held, or before the thread runs

    def _is_idle(self) -> bool:
        return not self._pending and all(worker.job is None for worker in self._live)

    def _has_room(self) -> bool:
        if self.error is not None:
            return True
        if not self._free or self._stopping:
            return False
        return not self._has_standby or any(worker.ready and worker.job is None for worker in self._live)

    def _dispatch(self) -> None:
        for worker in self._live:
            if not self._pending:
                return
            if worker.ready and worker.job is None:
                job = self._pending.popleft()
                worker.job, worker.busy_since = job, time.monotonic()
                try:
                    worker.child.socket.send(TASK.pack(job.token, job.slot.index, job.items) + job.message)
                except OSError:
                    worker.ready = False  # it has died: EOF follows, and with it the job's outcome

    def _spawn(self) -> None:
        worker = _Worker(ChildProcess("camapp.workers.worker", threads=self._threads))
        socket.send_fds(worker.child.socket, [self._config], [self._slots.fd, self._model_fd])
        with self._lock:
            self._live.append(worker)
        self._selector.register(worker.child.socket, selectors.EVENT_READ, worker)


def _first_run_s(model: Model) -> float:
    """Return the seconds of the net's first run for one item."""
    plan = model.plan((1, *model.card.input_shape))
    began = time.monotonic()
    plan.run()
    return time.monotonic() - began
