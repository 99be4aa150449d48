"""The parent's side of the workers: hands out slots, collects results, replaces processes that die or hang."""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from camapp.core.errors import PoolError
from camapp.core.stats import Quantiles
from camapp.system.process import start_child
from camapp.workers.protocol import PACKET_BYTES, REPLY, STATUS_DONE, STATUS_PART, STATUS_READY, TASK
from camapp.workers.slots import Slot, SlotLayout, Slots
from engine.model import Model
from engine.runtime.shared_model import write_shared

log = logging.getLogger(__name__)

START_TIMEOUT = 30.0
STUCK_AT_LEAST = 1.7  # with the poll and the words about it, less than two seconds
STUCK_TIMES_P95 = 10.0
RESTARTS, RESTARTS_WITHIN = 5, 60.0
# Workers that may be lost without a result between before waiting for the next no longer counts as a bounded step.
LOST_IN_ROW = 3
_POLL = 0.25
# The error of jobs that were not done when the pool was stopped.
STOPPED = "stopped"


@dataclass(frozen=True)
class OwnJob:
    """What workers do with messages, in place of running the net from slot to slot.

    Attributes:
        make: 'module:function', called in each worker with the model and `options`; gives `message -> pieces of the
            reply`, in bytes.
        options: plain values.
        stuck_after: seconds without a piece, be it an empty one, after which a worker is taken for hung.
    """

    make: str
    options: dict[str, Any]
    stuck_after: float


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `error` is "" when the slot's outputs (or `reply`, of an own job) hold results."""

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
    process: subprocess.Popen[bytes]
    sock: socket.socket
    started: float
    ready: bool = False
    job: _Job | None = None
    busy_since: float = 0.0


class WorkerPool:
    """A fixed number of worker processes for one model.

    A slot has one owner at a time: whoever acquired it, then (from `submit` on) the pool, then `on_outcome`, which
    must `release` it. A slot held by a dead worker is handed out again only after that process was reaped.

    Frames that are prepared ahead wait for a new worker; without spare slots they would be lost meanwhile, so one more
    process stands by, started when the others are ready. It is a worker like them, of which no more than `workers` work
    at a time, having as many slots: starting another takes half a second and more, going on with a ready one nothing.

    Args:
        model: optimised once here; every worker maps the same packed weights.
        max_items: items a slot holds.
        workers: processes that work at a time.
        threads: BLAS threads of each.
        spare_slots: slots beyond one a worker, so that frames can be prepared ahead (0 keeps latency lowest).
        on_outcome: called in the pool's thread, once for each submitted token.
        own_job: what workers do with messages; None has them run the net on what slots hold.
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
    ) -> None:
        self.workers = workers
        self._processes = workers + int(not spare_slots)
        self.restarts = 0
        self.error: PoolError | None = None
        self._threads = threads
        self._on_outcome = on_outcome
        self._ahead = spare_slots > 0
        self._own_limit = own_job.stuck_after if own_job else None
        item_shape = model.card.input_shape
        plan = model.plan((max_items, *item_shape))
        layout = SlotLayout(
            workers + spare_slots, (max_items, *item_shape), tuple(output.shape for output in plan.outputs)
        )
        self._model_fd = os.memfd_create("camapp-model", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(self._model_fd), "wb") as file:
            write_shared(model, file)
        model.release()  # the workers have it now: once in memory is enough
        self._slots = Slots.create(layout)
        self._config = json.dumps({"layout": layout.to_json(), "job": asdict(own_job) if own_job else None}).encode()
        self._lock = threading.Condition()
        self._free = deque(range(layout.slots))
        self._pending: deque[_Job] = deque()
        self._live: list[_Worker] = []
        self._deaths: deque[float] = deque()
        self._lost_in_row = 0
        self._infer_s = Quantiles(256)
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._busy_ns = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="workers", daemon=True)

    # -- the caller's side

    def start(self) -> None:
        """Start the thread that starts the processes and serves them; they become ready in the background."""
        self._thread.start()

    def wait_ready(self, timeout: float) -> bool:
        """Whether a worker is ready within `timeout` seconds. Raises PoolError when none will be."""
        with self._lock:
            self._lock.wait_for(lambda: self.error or any(worker.ready for worker in self._live), timeout)
            if self.error:
                raise self.error
            return any(worker.ready for worker in self._live)

    def acquire(self, timeout: float) -> Slot | None:
        """A free slot, and without spare slots also a worker with nothing to do; None if none within `timeout` s."""
        with self._lock:
            if not self._lock.wait_for(self._has_room, timeout) or self.error:
                return None
            return self._slots[self._free.popleft()]

    def submit(self, slot: Slot, token: int, items: int, message: bytes = b"") -> None:
        """Hand a written slot over, or a message (at most MESSAGE_BYTES) with its slot; `on_outcome` follows."""
        with self._lock:
            self._pending.append(_Job(token, slot, items, message))
            self._dispatch()

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._lock:
            self._free.append(slot.index)
            self._lock.notify_all()

    def busy_seconds(self) -> float:
        """Time that all workers have spent inferring since the start, summed."""
        with self._lock:
            return self._busy_ns / 1e9

    def processes(self) -> list[int]:
        """Process ids of the live workers."""
        with self._lock:
            return [worker.process.pid for worker in self._live]

    def bounded_step(self) -> str:
        """What a worker is at within its time limit, 'starting workers' or 'inferring'; "" if none is."""
        now = time.monotonic()
        with self._lock:
            if self._lost_in_row > LOST_IN_ROW:
                return ""  # each is bounded, but one after another they would never end
            if any(not worker.ready and now - worker.started <= START_TIMEOUT + _POLL for worker in self._live):
                return "starting workers"
            limit = self._stuck_after() + _POLL
            if any(worker.job is not None and now - worker.busy_since <= limit for worker in self._live):
                return "inferring"
        return ""

    def drain(self, timeout: float) -> bool:
        """Wait for every submitted job to end; True if none is left."""
        with self._lock:
            self._lock.wait_for(lambda: self.error is not None or self._is_idle(), timeout)
            return self._is_idle()

    def stop(self, timeout: float = 0.5) -> None:
        """End the processes within about `timeout` seconds; jobs not done come back as failed outcomes."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(timeout + 1)
        for worker in self._live:
            worker.sock.close()
        deadline = time.monotonic() + timeout
        for worker in self._live:
            try:
                worker.process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._abandon(STOPPED)
        self._live = []
        self._selector.close()
        os.close(self._wake)
        self._slots.close()
        os.close(self._model_fd)

    # -- the pool's thread

    def _serve(self) -> None:
        try:
            # Here and not in `start`: the kernel ends a worker with the thread that started it (PR_SET_PDEATHSIG).
            for _ in range(self.workers):
                self._spawn()
            while not self._stopping and self.error is None:
                for key, _ in self._selector.select(_POLL):
                    if key.data is not None:  # else it is `stop` that wakes us
                        self._receive(key.data)
                self._check_stuck()
        except Exception as error:
            log.debug("pool failed", exc_info=True)
            self._fail(PoolError(f"the worker pool failed: {type(error).__name__}: {error}"))
        if self.error is not None:
            self._abandon(str(self.error))

    def _receive(self, worker: _Worker) -> None:
        try:
            packet = worker.sock.recv(PACKET_BYTES)
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
                self._infer_s.add((end - start) / 1e9)
                self._dispatch()
                self._lock.notify_all()
                complete = len(self._live) >= self._processes or not all(one.ready for one in self._live)
            if not complete:
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
                self._lost_in_row = 0
                self._infer_s.add((end - start) / 1e9)
                self._busy_ns += end - start
                # The worker's next job starts before this one is decoded: it should not wait for us.
                self._dispatch()
            else:
                worker.ready = False  # it exits now; EOF follows
            self._lock.notify_all()
        if job is None or job.token != token:
            raise RuntimeError(f"worker {worker.process.pid} answered for {token}, which it was not given")
        self._on_outcome(Outcome(job.token, job.slot, job.items, start, end, error, b"".join(job.parts)))

    def _check_stuck(self) -> None:
        now = time.monotonic()
        for worker in list(self._live):
            busy = now - worker.busy_since if worker.job is not None else 0.0
            if busy > STUCK_AT_LEAST and busy > self._stuck_after():  # the first test spares most the second's sort
                self._replace(worker, f"hung for {busy:.1f} s")
            elif not worker.ready and worker.job is None and now - worker.started > START_TIMEOUT:
                self._replace(worker, f"not ready within {START_TIMEOUT:.0f} s")

    def _replace(self, worker: _Worker, why: str) -> None:
        """Reap a worker, fail its job, and start another if the budget allows."""
        self._selector.unregister(worker.sock)
        worker.process.kill()
        code = worker.process.wait()
        worker.sock.close()
        with self._lock:
            self._live.remove(worker)
            self._lost_in_row += 1
            job = worker.job
            self._dispatch()
            self._lock.notify_all()
        what = f"worker {worker.process.pid} {why}" + (f" (exit status {code})" if why == "died" else "")
        log.warning("%s; %s", what, "what it held is lost" if job else "it held nothing")
        if job:
            self._on_outcome(Outcome(job.token, job.slot, job.items, error=f"worker {why.split(' for ')[0]}"))
        now = time.monotonic()
        self._deaths.append(now)
        while now - self._deaths[0] > RESTARTS_WITHIN:
            self._deaths.popleft()
        if len(self._deaths) > RESTARTS:
            self._fail(PoolError(f"{len(self._deaths)} workers lost within {RESTARTS_WITHIN:.0f} s, the last: {what}"))
            return
        self.restarts += 1
        self._spawn()

    def _fail(self, error: PoolError) -> None:
        with self._lock:
            self.error = error
            self._lock.notify_all()

    def _abandon(self, reason: str) -> None:
        """Return every job that will not be run any more."""
        with self._lock:
            jobs = list(self._pending) + [worker.job for worker in self._live if worker.job is not None]
            self._pending.clear()
            for worker in self._live:
                worker.job = None
            self._lock.notify_all()
        for job in jobs:
            self._on_outcome(Outcome(job.token, job.slot, job.items, error=reason))

    def _stuck_after(self) -> float:
        return max(STUCK_AT_LEAST, self._own_limit or STUCK_TIMES_P95 * self._infer_s.at(95)[0])

    # -- with the lock held, or before the thread runs

    def _is_idle(self) -> bool:
        return not self._pending and all(worker.job is None for worker in self._live)

    def _has_room(self) -> bool:
        if self.error is not None:
            return True
        if not self._free or self._stopping:
            return False
        return self._ahead or any(worker.ready and worker.job is None for worker in self._live)

    def _dispatch(self) -> None:
        for worker in self._live:
            if not self._pending:
                return
            if worker.ready and worker.job is None:
                job = self._pending.popleft()
                worker.job, worker.busy_since = job, time.monotonic()
                try:
                    worker.sock.send(TASK.pack(job.token, job.slot.index, job.items) + job.message)
                except OSError:
                    worker.ready = False  # it has died: EOF follows, and with it the job's outcome

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fd = theirs.fileno()
            process = start_child("camapp.workers.worker", str(fd), fds=[fd], threads=self._threads)
        socket.send_fds(ours, [self._config], [self._slots.fd, self._model_fd])
        ours.setblocking(False)
        worker = _Worker(process, ours, time.monotonic())
        with self._lock:
            self._live.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)
