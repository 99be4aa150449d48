"""Turns captured frames into predictions: prepares them, sends them to the workers, decodes results in frame order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from camapp.core.arrays import Floats
from camapp.core.events import moment_ns
from camapp.core.frames import Frame, Trace
from camapp.core.log_once import LogOnce
from camapp.core.mailbox import Mailbox
from camapp.core.predictions import Prediction
from camapp.core.stats import Stats
from camapp.pipeline.model_swap import Generation, LoadedModel, ModelSwap
from camapp.tasks.task import Prepared
from camapp.workers.pool import STOPPED, Outcome
from camapp.workers.shared_pool import Pool
from camapp.workers.slots import Slot

log = logging.getLogger(__name__)

_TICK = 0.05
# Shortest time that a finished live result waits for an older frame of another worker.
_MIN_REORDER_MS = 20.0


@dataclass(frozen=True)
class Result:
    """Holds a prediction, its frame and the time stamps of its way."""

    frame: Frame
    trace: Trace
    prediction: Prediction


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
    """Prepares frames, sends them to the workers, and decodes and publishes the results in frame order.

    Args:
        live: True: the newest frame wins and late results are discarded. False: every frame is used.
        spare_slots: number of frames of a file that are prepared ahead.
        publish: called with each result, in frame order, by one thread at a time.

    Attributes:
        error: what ended the preparing thread, if an error did.
    """

    def __init__(
        self,
        first: LoadedModel,
        stats: Stats,
        live: bool,
        spare_slots: int,
        publish: Callable[[Result], None],
    ) -> None:
        self.live = live
        self.error: Exception | None = None
        self._spare_slots = 0 if live else spare_slots
        self._stats = stats
        self._publish = publish
        self._mailbox: Mailbox[tuple[Frame, Trace]] = Mailbox()
        self._jobs: dict[int, _Job] = {}
        self._order: deque[_Job] = deque()
        self._order_lock = threading.Lock()
        # Held while results are decoded and published, which may wait for a file's encoder; the capture thread never
        # takes it.
        self._publishing = threading.Lock()
        self._forget = threading.Event()
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._prepare_all, name="prepare", daemon=True)
        self._log_once = LogOnce(log)
        self._models = ModelSwap(first, self._make_pool, self._thread.is_alive, self._stop_event, self._finish)

    @property
    def loaded(self) -> LoadedModel:
        """The model and task for new frames."""
        return self._models.current.loaded

    @property
    def pool(self) -> Pool:
        """The workers for new frames."""
        return self._models.current.pool

    @property
    def restarts(self) -> int:
        """Number of workers replaced so far, those of earlier models included."""
        return self._models.restarts

    def start(self) -> None:
        """Start the workers and the preparing thread."""
        self.pool.start()
        self._thread.start()

    def apply(self, loaded: LoadedModel) -> None:
        """Replace the model between two frames; see `ModelSwap.apply`. Raises PoolError and then changes nothing."""
        self._models.apply(loaded)

    def _make_pool(self, loaded: LoadedModel) -> Pool:
        return loaded.make_pool(loaded.model, loaded.task.max_items, self._spare_slots, self._on_outcome)

    def offer(self, frame: Frame, trace: Trace) -> None:
        """Take a frame from the capture thread."""
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
        """Reset the filters before the next result, after a lost source or a pause."""
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
        """Refuse further frames; those in flight have `timeout` seconds to be predicted."""
        self._stop_event.set()
        left = self._mailbox.close()
        if left is not None:
            self._stats.dropped(left[1], "stopping")
        if self._thread.is_alive():
            self._thread.join(timeout)
        # A swap in progress ends soon, since it checks the stop event.
        swapped = self._models.lock.acquire(timeout=timeout)
        if self.pool.error is None:
            self.pool.drain(timeout)
        self.pool.stop()
        if swapped:
            self._models.lock.release()
        self._finish()

    # -- the preparing thread

    def _prepare_all(self) -> None:
        try:
            while not self._stop_event.is_set() and self.pool.error is None:
                self._prepare_next()
        except Exception as error:
            log.debug("traceback", exc_info=error)
            self.error = error

    def _prepare_next(self) -> None:
        generation = self._models.enter()
        # Acquire the slot only once a frame is waiting, and take the frame, the newest one, only then.
        slot = generation.pool.acquire(_TICK) if self._mailbox.wait(_TICK) else None
        self._finish()
        if slot is None:
            return
        item = self._mailbox.get(0.0)
        if item is None:
            generation.pool.release(slot)
        else:
            self._prepare(generation, slot, *item)

    def _prepare(self, generation: Generation, slot: Slot, frame: Frame, trace: Trace) -> None:
        job = _Job(generation, frame, trace)
        trace.taken = time.monotonic_ns()
        try:
            job.prepared = generation.loaded.task.prepare(frame, slot.input)
        except Exception as error:  # noqa: BLE001 - a bad image must not end the run
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
            job.outputs = [output.copy() for output in outcome.slot.first(outcome.items)[1]]
            job.trace.infer_start, job.trace.infer_end = outcome.infer_start, outcome.infer_end
        job.generation.pool.release(outcome.slot)
        with self._order_lock:
            # In one step: a finished job is never marked as late, and a job marked as late is settled here.
            job.done_at = time.monotonic_ns()
            late = job.late
        if late and not job.error:
            self._stats.dropped(job.trace, "late")
        elif late:
            self._settle(job)
        self._finish()

    # -- in both threads

    def _finish(self) -> None:
        """Decode and publish the finished jobs in frame order; returns at once if another thread is doing so."""
        while self._has_next() and self._publishing.acquire(blocking=False):
            try:
                while (job := self._next()) is not None:
                    self._settle(job)
            finally:
                self._publishing.release()

    def _has_next(self) -> bool:
        """Return whether the oldest job is done; mark one as late that delays newer live results for too long."""
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
        bound_ms = max(_MIN_REORDER_MS, self._stats.latency["infer"].at(50, last=64)[0])
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
            task = job.generation.loaded.task
            if shot.still or self._forget.is_set():
                self._forget.clear()
                task.reset()
            # The time of the image, not of decoding: a file that is read faster than it plays gives the same labels.
            prediction = task.decode(job.frame, job.outputs, job.prepared, moment_ns(job.frame, job.trace))
        except Exception as error:  # noqa: BLE001 - a bad result must not end the run
            self._report("decode", error)
            self._stats.failed(job.trace, "decode")
            return
        job.trace.decoded = time.monotonic_ns()
        self._stats.predicted(job.trace)
        self._publish(Result(job.frame, job.trace, replace(prediction, model=job.generation.loaded.name)))

    def _report(self, stage: str, error: Exception) -> None:
        kind = type(error).__name__
        text = "%s failed: %s: %s (further ones of this kind are only counted)"
        self._log_once(logging.ERROR, (stage, kind), text, stage, kind, error, error=error)
