"""What may be ordered of a camera from elsewhere, and who obeys: shared by the page and the broker's face."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from camapp.core.errors import PoolError
from camapp.core.models import model_choices, with_model
from camapp.core.settings import Settings
from camapp.core.stats import Stats
from camapp.core.status import Status
from camapp.sinks.sink import Sink
from camapp.sinks.snapshot import SnapshotSink
from engine.model import ModelError

_STOP_S = 1.0

Order = TypeVar("Order")


class CommandRejected(Exception):
    """An order that is not obeyed; the text says why, for who gave it."""


class CameraControl(Protocol):
    """What a remote interface may read and do of one camera's run; `Pipeline` implements it."""

    name: str
    settings: Settings
    stats: Stats

    @property
    def hud_shown(self) -> bool:
        """Whether the statistics are drawn on the image."""

    def set_hud(self, shown: bool) -> None:
        """Draw the statistics on the image, or leave them out."""

    def add_sink(self, sink: Sink) -> None:
        """Send predictions or drawn images to `sink`; before the run starts."""

    def status(self) -> Status:
        """Return the state, counts and rates of this moment."""

    def pause(self) -> None:
        """Hold the image and the predictions."""

    def resume(self) -> None:
        """Continue after `pause`."""

    def apply(self, settings: Settings) -> None:
        """Apply changed settings; may take seconds. Raises ModelError or PoolError and then changes nothing."""


class RemoteControl:
    """Does with the cameras what any face may order, in the caller's thread.

    Args:
        cameras: the runs.
        saved: called with a camera's name and the file of each snapshot, in another thread.

    Attributes:
        snapshots: what saves each camera's, by its name.
    """

    def __init__(self, cameras: Sequence[CameraControl], saved: Callable[[str, Path], None]) -> None:
        self._first = {camera.name: camera.settings for camera in cameras}
        self.snapshots: dict[str, SnapshotSink] = {}
        for camera in cameras:
            sink = SnapshotSink(camera.settings.snapshots, partial(saved, camera.name))
            self.snapshots[camera.name] = sink
            camera.add_sink(sink)

    def choose_model(self, camera: CameraControl, wanted: object) -> None:
        """Have it run a model that ships, or the one that it began with. Raises Refused."""
        first = self._first[camera.name]
        choices = model_choices(first)
        if not isinstance(wanted, str) or wanted not in choices:
            raise CommandRejected(f"no such model; there are {', '.join(choices)}")
        self.change(camera, with_model(camera.settings, first, choices[wanted]))

    def change(self, camera: CameraControl, settings: Settings) -> None:
        """Have it take up changed settings; may take seconds. Raises Refused."""
        try:
            camera.apply(settings)
        except (ModelError, PoolError, OSError) as error:
            raise CommandRejected(f"not changed: {error}") from error


class CommandQueue(Generic[Order]):
    """Obeys orders in a thread of its own, one at a time: taking one in is quick, obeying it may take seconds.

    Args:
        name: of the thread.
        obey: called with each; does not raise.
        most: how many may wait.

    Attributes:
        stopping: whoever obeys, and waits for something, gives up on it.
    """

    def __init__(self, name: str, obey: Callable[[Order], None], most: int) -> None:
        self.stopping = threading.Event()
        self._obey = obey
        self._waiting: queue.Queue[Order | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._obey_all, name=name, daemon=True)

    def start(self) -> None:
        """Be ready to obey."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what waits; an order that is being obeyed is left, after a second, to the run's own stop."""
        self.stopping.set()
        with contextlib.suppress(queue.Full):  # then it is at one, and looks at `stopping` after that
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def take(self, order: Order) -> bool:
        """Take one in, from any thread; False if too many wait."""
        try:
            self._waiting.put_nowait(order)
        except queue.Full:
            return False
        return True

    def _obey_all(self) -> None:
        while (order := self._waiting.get()) is not None and not self.stopping.is_set():
            self._obey(order)
