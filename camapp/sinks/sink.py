"""Defines what a sink is: it receives predictions or drawn images, and never blocks the pipeline."""

from __future__ import annotations

import errno
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from camapp.core.arrays import Pixels
from camapp.core.errors import SinkError
from camapp.core.frames import Frame, Trace
from camapp.core.log_once import LogOnce
from camapp.core.predictions import Prediction
from camapp.system.output_lock import OutputInUse


@contextmanager
def refusals(what: str, remedy: str = "", undo: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn what prevents an output (the operating system, or another run that writes it) into a SinkError.

    A lack of permission has its own exit code.

    Args:
        what: cannot be done, such as "cannot write clips into 'clips'".
        remedy: for the user, from the separator on.
        undo: called before the error is raised.
    """
    try:
        yield
    except OutputInUse as error:
        undo()
        raise SinkError(f"{what}: {error} writes it{remedy}") from error
    except OSError as error:
        undo()
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise SinkError(f"{what}: {error.strerror}{remedy}", denied=denied) from error


def guarded(log_once: LogOnce, sink: Sink, call: Callable[..., None], *arguments: object) -> None:
    """Call a method of a sink; its error is logged once, since it must end neither the run nor other sinks."""
    try:
        call(*arguments)
    except Exception as error:  # noqa: BLE001
        what = type(sink).__name__, type(error).__name__, error
        key = id(sink), getattr(call, "__name__", "")
        log_once(logging.ERROR, key, "%s failed: %s: %s (logged once)", *what, error=error)


class Sink(ABC):
    """Receives the results of a run; started before the first frame, stopped after the last."""

    def start(self) -> None:
        """Acquire the resources. Raises SinkError."""

    def stop(self) -> None:
        """Finish what was received, within a second or two."""


class PredictionSink(Sink):
    """Receives every prediction, in frame order."""

    @abstractmethod
    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Receive a prediction; returns at once, except for a file, whose frames can wait."""


class ImageSink(Sink):
    """Receives every drawn image.

    Attributes:
        wants_raw: the sink receives each image without the drawing, too.
        reports_shown: the sink reports itself when an image is on the screen; otherwise drawing it counts as shown.
    """

    reports_shown = False
    wants_raw = False

    def wanted(self) -> bool:
        """Return whether the sink needs images now; if no sink does, none is drawn."""
        return True

    def show_raw(self, image: Pixels, trace: Trace) -> None:
        """Receive an image without the drawing, before `show`, if `wants_raw`; arguments as there."""

    @abstractmethod
    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Receive an image.

        Args:
            canvas: (h, w, 3) uint8 BGR, finished; sinks share the array and must not write to it.
            trace: of the frame, or None for a notice such as NO SIGNAL.
        """
