"""What every sink is: it takes predictions, or drawn images, and never blocks the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod

from camapp.core.arrays import Pixels
from camapp.core.frames import Frame, Trace
from camapp.core.predictions import Prediction


class Sink(ABC):
    """Started before the first frame, stopped after the last."""

    def start(self) -> None:
        """Acquire what is needed. Raises SinkError."""

    def stop(self) -> None:
        """Finish what was taken, within a second or two."""


class PredictionSink(Sink):
    """Takes every prediction, in frame order."""

    @abstractmethod
    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Take one in; returns at once."""


class ImageSink(Sink):
    """Takes every drawn image.

    Attributes:
        reports_shown: it reports by itself when an image really is on the screen; else drawing it counts as that.
    """

    reports_shown = False

    def wanted(self) -> bool:
        """Whether anybody looks: where no sink's images are wanted, none is drawn."""
        return True

    @abstractmethod
    def show(self, canvas: Pixels, trace: Trace | None) -> None:
        """Take one in.

        Args:
            canvas: (h, w, 3) uint8 BGR, finished; several sinks see the same array, none may write to it.
            trace: the frame's, or None for a notice such as NO SIGNAL.
        """
