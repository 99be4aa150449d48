"""Defines the base classes of sinks: outputs that receive predictions or drawn images and never block the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod

from camapp.core.arrays import Pixels
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction


class Sink(ABC):
    """Base class of both kinds. `start` runs before the first frame, `stop` after the last; both are optional."""

    def start(self) -> None:
        """Acquire what the sink needs. Raises SinkError."""

    def stop(self) -> None:
        """Finish the received items, within two seconds."""


class PredictionSink(Sink):
    """Receives every prediction, in frame order."""

    @abstractmethod
    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Receive one prediction and return at once."""


class ImageSink(Sink):
    """Receives every drawn image.

    Attributes:
        reports_shown: True if the sink itself reports when an image is on the screen; else a drawn image counts as
            shown.
    """

    reports_shown = False

    def wanted(self) -> bool:
        """Return whether the sink uses images now; if no sink does, none is drawn."""
        return True

    @abstractmethod
    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Receive one image and return at once.

        Args:
            canvas: (h, w, 3) uint8 BGR, shared by all sinks and therefore read-only.
            trace: trace of the frame, or None for a notice such as NO SIGNAL.
        """
