"""From a captured frame to a prediction: prepares, sends to the workers, decodes the results in frame order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from camapp.core.arrays import Floats
from camapp.core.errors import PoolError
from camapp.core.frames import Frame, Trace
from camapp.core.log_once import LogOnce
from camapp.core.mailbox import Mailbox
from camapp.core.predictions import Prediction
from camapp.core.stats import Stats
from camapp.tasks.task import Prepared, Task
from camapp.workers.pool import START_TIMEOUT, STOPPED, Outcome
from camapp.workers.shared_pool import MakePool, Pool
from camapp.workers.slots import Slot
from engine.model import Model

log = logging.getLogger(__name__)

_TICK = 0.05
# How long a finished live result waits for an older frame that another worker still has.
_REORDER_AT_LEAST_MS = 20.0
# How long frames that a retiring model has begun may take.
_SWAP_DRAIN = 5.0


@dataclass(frozen=True)
class Result:
    """A prediction with the frame it is of and how long that took."""

    frame: Frame
    trace: Trace
    prediction: Prediction


@dataclass(frozen=True, eq=False)
class Generation:
    """A model at work: its task and its workers. A new model is a new generation.

    Attributes:
        name: of the model, for records.
        model: what the workers run.
        task: both ends of it.
        pool: the workers.
    """

    name: str
    model: Model
    task: Task
    pool: Pool


@dataclass(eq=False)
class _Job:
    generation: Generation
    frame: Frame
    trace: Trace
    prepared: Prepared | None = None
    outputs: list[Floats] = field(default_factory=list)
    done_at: int = 0
    error: str = ""
    late: bool = False


class Inference:
    """The stage between capture and sinks.

    Args:
        name: of the model, for records.
        model: to run.
        task: both ends of it.
        stats: where frames are accounted.
        live: newest frame wins and late results are discarded; else every frame counts and nothing is late.
        make_pool: makes the workers of the model.
        spare_slots: how many frames of a file are prepared ahead.
        publish: called with each result, in frame order, never twice at a time.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        task: Task,
        stats: Stats,
        live: bool,
        make_pool: MakePool,
        spare_slots: int,
        publish: Callable[[Result], None],
    ) -> None:
        self.live = live
        self._spare_slots = 0 if live else spare_slots
        self._retired_restarts = 0
        self._generation = self._in_use = self._new_generation(name, model, task, make_pool)
        self._swapping = threading.Lock()
        self._stats = stats
        self._publish = publish
        self._mailbox: Mailbox[tuple[Frame, Trace]] = Mailbox()
        self._jobs: dict[int, _Job] = {}
        self._order: deque[_Job] = deque()
        self._order_lock = threading.Lock()
        # Held while results are decoded and published, which may wait for a file's encoder: never by who must not.
        self._publishing = threading.Lock()
        self._forget = threading.Event()
        self.error: Exception | None = None
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._prepare_all, name="prepare", daemon=True)
        self._log_once = LogOnce(log)

    @property
    def generation(self) -> Generation:
        """The model that new frames go to."""
        return self._generation

    @property
    def pool(self) -> Pool:
        """Its workers."""
        return self._generation.pool

    @property
    def restarts(self) -> int:
        """Workers replaced so far, those of earlier models included."""
        return self._retired_restarts + self.pool.restarts

    def start(self) -> None:
        """Start the workers and the preparing thread."""
        self.pool.start()
        self._thread.start()

    def retask(self, model: Model, task: Task) -> None:
        """Let another task of the same net and as many items take over between two frames; the workers stay."""
        with self._swapping:
            self._generation = replace(self._generation, model=model, task=task)

    def swap(self, name: str, model: Model, task: Task, make_pool: MakePool) -> None:
        """Let another model take over between two frames; frames that the old one has begun, it ends.

        The old one works on until a worker of the new one has run it, and stays where that fails.

        Raises:
            PoolError: no worker could run the new model.
        """
        with self._swapping:
            old, new = self._generation, self._new_generation(name, model, task, make_pool)
            new.pool.start()
            try:
                ready = until_ready(new.pool, lambda: not self._stop_event.is_set())
            except PoolError:
                new.pool.stop()
                raise
            if not ready:
                new.pool.stop()
                return
            self._generation = new
            # From here on no frame enters the old one: wait until the frame in preparation has, if it was to.
            while self._in_use is old and self._thread.is_alive():
                time.sleep(_TICK / 10)
            self._retired_restarts += old.pool.restarts
            deadline = time.monotonic() + _SWAP_DRAIN
            while not old.pool.drain(_TICK) and time.monotonic() < deadline and not self._stop_event.is_set():
                pass
            old.pool.stop()
            self._finish()

    def _new_generation(self, name: str, model: Model, task: Task, make_pool: MakePool) -> Generation:
        return Generation(name, model, task, make_pool(model, task.max_items, self._spare_slots, self._on_outcome))

    def offer(self, frame: Frame, trace: Trace) -> None:
        """Called by the capture thread with each frame."""
        if self.live:
            pushed_out = self._mailbox.replace((frame, trace))
            if pushed_out is not None:
                closed = pushed_out[1] is trace
                self._stats.dropped(pushed_out[1], "stopping" if closed else "newer frame")
            return
        while not self._mailbox.put((frame, trace), _TICK):
            if self._stop_event.is_set():
                self._stats.dropped(trace, "stopping")
                return

    def forget(self) -> None:
        """Filters start anew with the next result: the source was lost, or a pause has ended."""
        self._forget.set()

    def drain(self, timeout: float, wanted: Callable[[], bool] = lambda: True) -> bool:
        """Wait until no frame is in flight; False if `timeout` seconds have passed or `wanted()` is False first."""
        deadline = time.monotonic() + timeout
        while self._stats.in_flight() and self.pool.error is None and self.error is None:
            if time.monotonic() > deadline or not wanted():
                return False
            time.sleep(0.005)
        return True

    def stop(self, timeout: float = 1.0) -> None:
        """Take no more frames; those in flight get `timeout` seconds to be predicted."""
        self._stop_event.set()
        left = self._mailbox.close()
        if left is not None:
            self._stats.dropped(left[1], "stopping")
        if self._thread.is_alive():
            self._thread.join(timeout)
        # A swap in progress ends soon: it looks at the stop event before it takes over.
        swapped = self._swapping.acquire(timeout=timeout)
        if self.pool.error is None:
            self.pool.drain(timeout)
        self.pool.stop()
        if swapped:
            self._swapping.release()
        self._finish()

    # -- the preparing thread

    def _prepare_all(self) -> None:
        try:
            while self._may_go_on():
                self._prepare_next()
        except Exception as error:
            log.debug("traceback", exc_info=error)
            self.error = error

    def _prepare_next(self) -> None:
        generation = self._in_use = self._generation
        # First the frame, then a slot, then the newest frame: no slot is held by who has nothing to do with it.
        slot = generation.pool.acquire(_TICK) if self._mailbox.wait(_TICK) else None
        self._finish()
        if slot is None:
            return
        item = self._mailbox.get(0.0)
        if item is None:
            generation.pool.release(slot)
        else:
            self._prepare(generation, slot, *item)

    def _may_go_on(self) -> bool:
        return not self._stop_event.is_set() and self.pool.error is None

    def _prepare(self, generation: Generation, slot: Slot, frame: Frame, trace: Trace) -> None:
        job = _Job(generation, frame, trace)
        trace.taken = time.monotonic_ns()
        try:
            job.prepared = generation.task.prepare(frame, slot.input)
        except Exception as error:  # noqa: BLE001 - one bad image must not end the run
            generation.pool.release(slot)
            self._report("prepare", error)
            self._stats.failed(trace, "prepare")
            return
        trace.prepared = time.monotonic_ns()
        count = job.prepared.count
        with self._order_lock:
            self._order.append(job)
            if count:
                self._jobs[frame.seq] = job
        if count:
            generation.pool.submit(slot, frame.seq, count)
        else:
            generation.pool.release(slot)
            job.done_at = trace.prepared
            self._finish()

    # -- the pool's thread

    def _on_outcome(self, outcome: Outcome) -> None:
        with self._order_lock:
            job = self._jobs.pop(outcome.token)
        if outcome.error:
            job.error = outcome.error
        else:
            job.outputs = [output[: outcome.items].copy() for output in outcome.slot.outputs]
            job.trace.infer_start, job.trace.infer_end = outcome.infer_start, outcome.infer_end
        job.generation.pool.release(outcome.slot)
        with self._order_lock:
            # Together: a job that is done is never given up as late, one that was is settled here.
            job.done_at = time.monotonic_ns()
            late = job.late
        if late and not job.error:
            self._stats.dropped(job.trace, "late")
        elif late:
            self._settle(job)
        self._finish()

    # -- either

    def _finish(self) -> None:
        """Decode and publish what is next in frame order, one thread at a time; the others leave it to that one."""
        while self._has_next() and self._publishing.acquire(blocking=False):
            try:
                while (job := self._next()) is not None:
                    self._settle(job)
            finally:
                self._publishing.release()

    def _has_next(self) -> bool:
        """Whether the oldest job is done; gives up on one that keeps newer live results waiting for too long."""
        with self._order_lock:
            while self._order and not self._order[0].done_at and self.live and self._is_late(self._order[0]):
                self._order.popleft().late = True
            return bool(self._order and self._order[0].done_at)

    def _next(self) -> _Job | None:
        with self._order_lock:
            return self._order.popleft() if self._order and self._order[0].done_at else None

    def _is_late(self, head: _Job) -> bool:
        newer_done = [job.done_at for job in self._order if job.done_at]
        if not newer_done:
            return False
        bound_ms = max(_REORDER_AT_LEAST_MS, self._stats.latency["infer"].at(50, last=64)[0])
        return time.monotonic_ns() - min(newer_done) > bound_ms * 1e6

    def _settle(self, job: _Job) -> None:
        if job.error == STOPPED:
            self._stats.dropped(job.trace, "stopping")
            return
        if job.error:
            self._stats.failed(job.trace, job.error)
            return
        assert job.prepared is not None
        shot = job.frame.shot
        try:
            task = job.generation.task
            if shot.still or self._forget.is_set():
                self._forget.clear()
                task.reset()
            # The image's own time, not that of decoding: a file read faster than it plays gives the same labels.
            now = job.trace.captured if shot.moment_ns is None else shot.moment_ns
            prediction = task.decode(job.frame, job.outputs, job.prepared, now)
        except Exception as error:  # noqa: BLE001 - one bad result must not end the run
            self._report("decode", error)
            self._stats.failed(job.trace, "decode")
            return
        job.trace.decoded = time.monotonic_ns()
        self._stats.predicted(job.trace)
        self._publish(Result(job.frame, job.trace, replace(prediction, model=job.generation.name)))

    def _report(self, stage: str, error: Exception) -> None:
        text = f"{stage} failed: {type(error).__name__}: {error}"
        self._log_once(logging.ERROR, text, "%s (further ones of this kind are only counted)", text, error=error)


def until_ready(pool: Pool, wanted: Callable[[], bool]) -> bool:
    """Wait for a worker of the pool.

    Args:
        pool: started.
        wanted: called in every step of the wait; False ends it.

    Returns:
        Whether a worker is ready and still wanted.

    Raises:
        PoolError: no worker has started.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while wanted():
        if pool.wait_ready(_TICK):
            return wanted()
        if time.monotonic() > deadline:
            raise PoolError(f"no worker process was ready within {START_TIMEOUT:.0f} s")
    return False
