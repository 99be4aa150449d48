"""`camapp classify --executor dask`: the same job on a Dask cluster, whose workers see the files under the same names.

Needs the extra `cluster` here, and camapp of the same version on the workers.
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

CONNECT_TIMEOUT = 15.0
_POLL = 0.2
# Lists of files under way for each thread of the cluster: enough that none waits for its next.
_AHEAD = 3

_here = threading.local()


def classify_on_cluster(
    model: Model,
    options: FilesOptions,
    batches: Iterable[list[str]],
    scheduler: str,
    stuck_after: float,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[ReadItem]:
    """Read and classify lists of files on a cluster; results in the order of the lists.

    Dask itself does again what a lost worker had. What kills its worker again and again is split, and a file that
    still does is listed as bad.

    Args:
        model: sent to the workers once.
        options: likewise.
        batches: taken as there is room for them.
        scheduler: address, such as 'tcp://192.168.1.2:8786'.
        stuck_after: seconds without any result after which the cluster is given up.
        stop: asked often; once true no more are taken, and those under way are finished.

    Raises:
        SettingsError: Dask is not installed here.
        PoolError: the cluster cannot be reached, has no workers, or does not answer.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise SettingsError("--executor dask needs Dask: pip install 'camapp[cluster]'", usage=True) from error
    try:
        client = Client(scheduler, timeout=CONNECT_TIMEOUT, set_as_default=False)
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise PoolError(f"no Dask cluster with workers at {scheduler}: start its scheduler and workers") from error
    with client:
        blob = BytesIO()
        write_shared(model, blob)
        content = client.scatter(blob.getvalue(), broadcast=True)

        def submit(files: list[str]) -> tuple[list[str], Any]:
            return files, client.submit(read_files, content, asdict(options), files, pure=False)

        window = _AHEAD * max(1, sum(client.nthreads().values()))
        source = iter(batches)
        order: deque[tuple[list[str], Any]] = deque()
        more = True
        while more or order:
            more = more and not stop()
            while more and len(order) < window:
                files = next(source, None)
                more = files is not None
                if files is not None:
                    order.append(submit(files))
            if not order:
                return
            files, future = order.popleft()
            try:
                yield ReadItem.from_bytes(_result(future, stuck_after))
            except (ImportError, ModelError) as error:
                raise PoolError(f"the workers of {scheduler} lack this version of camapp: {error}") from error
            except KilledWorker:
                if len(files) > 1:
                    order.extendleft(submit([file]) for file in reversed(files))
                else:
                    yield ReadItem.given_up(files, "it killed its worker", options)


def _result(future: Any, stuck_after: float) -> bytes:
    """What a task gave, waiting in short steps so that signals are heard."""
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
    """Classify files on a worker, as `ReadItem` bytes; each thread keeps its model and plans for the next call."""
    made_of = (content, options)
    if getattr(_here, "made_of", None) != made_of:
        _here.job = make(attach_shared(content), options)
        _here.made_of = made_of
    return ReadItem.of(_here.job.rows(files), options["formats"]).to_bytes()
