"""`camapp classify --executor dask` runs the job on a Dask cluster, whose workers need the files at the same paths.

This needs the extra `cluster` here, and the same version of camapp on the workers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from io import BytesIO
from typing import Any

from camapp.commands.classify.job import FilesOptions, ReadItem, make
from camapp.core.errors import PoolError, SettingsError
from engine.model import Model, ModelError
from engine.runtime.shared_model import attach_shared, write_shared

_POLL = 0.2
# Lists of files in progress for each thread of the cluster: enough that no thread waits for its next.
_AHEAD = 3

_cache = threading.local()


def classify_on_cluster(
    model: Model,
    options: FilesOptions,
    batches: Iterable[list[str]],
    scheduler: str,
    stuck_after: float,
    stop: Callable[[], bool] = lambda: False,
    connect_timeout: float = 15.0,
) -> Iterator[ReadItem]:
    """Read and classify lists of files on a cluster; yield results in the order of the lists.

    Dask repeats the work of a lost worker. A list that kills its worker repeatedly is split, and a file that still
    does so is listed as bad.

    Args:
        batches: lists of files, taken when the cluster has room for them.
        stuck_after: seconds without a result after which the run fails.
        stop: polled; once it returns True no more lists are taken, and those in progress are finished.

    Raises:
        SettingsError: Dask is not installed here.
        PoolError: the cluster cannot be reached, has no workers, or does not answer.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise SettingsError("--executor dask needs Dask: pip install 'camapp[cluster]'", usage=True) from error
    try:
        client = Client(scheduler, timeout=connect_timeout, set_as_default=False)
        client.wait_for_workers(1, timeout=connect_timeout)
    except (OSError, ValueError, TimeoutError) as error:
        raise PoolError(f"no Dask cluster with workers at {scheduler}: start its scheduler and workers") from error
    with client:
        blob = BytesIO()
        write_shared(model, blob)
        content = client.scatter(blob.getvalue(), broadcast=True)

        def submit(files: list[str]) -> tuple[list[str], Any]:
            return files, client.submit(read_files, content, asdict(options), files, pure=False)

        window = _AHEAD * max(1, sum(client.nthreads().values()))
        lists = iter(batches)
        pending: deque[tuple[list[str], Any]] = deque()
        more = True
        while more or pending:
            more = more and not stop()
            while more and len(pending) < window:
                files = next(lists, None)
                more = files is not None
                if files is not None:
                    pending.append(submit(files))
            if not pending:
                return
            files, future = pending.popleft()
            try:
                yield ReadItem.from_bytes(_result(future, stuck_after))
            except (ImportError, ModelError) as error:
                raise PoolError(f"the workers of {scheduler} lack this version of camapp: {error}") from error
            except KilledWorker:
                if len(files) > 1:
                    pending.extendleft(submit([file]) for file in reversed(files))
                else:
                    yield ReadItem.given_up(files, "it killed its worker", options)


def _result(future: Any, stuck_after: float) -> bytes:
    """Return the result of a task, waiting in short steps so that signals are handled."""
    deadline = time.monotonic() + stuck_after
    while True:
        try:
            reply: bytes = future.result(timeout=_POLL)
            return reply
        except TimeoutError as error:
            if time.monotonic() > deadline:
                raise PoolError(f"the cluster gave no result for {stuck_after:.0f} s") from error
        except OSError as error:
            raise PoolError(f"the connection to the cluster is lost: {error}") from error


def read_files(content: bytes, options: dict[str, Any], files: list[str]) -> bytes:
    """Classify files on a worker; return `ReadItem` bytes. Each thread keeps its model and plans for the next call."""
    source = (content, options)
    if getattr(_cache, "source", None) != source:
        _cache.job = make(attach_shared(content), options)
        _cache.source = source
    return ReadItem.of(_cache.job.rows(files), options["formats"]).to_bytes()
