"""Prints a line when an event begins: python examples/on_events.py SOURCE MODEL SECONDS EVENT...

Such as: python examples/on_events.py v4l2://0 yolox_nano 60 person 'person>2'
"""

import sys

import camapp


class EventPrinter(camapp.PredictionSink):
    """Follows the counts, which are held for a second if the model misses an object, and reports what begins."""

    def __init__(self, events: list[str]) -> None:
        self._trigger = camapp.Trigger(events)

    def accept(self, prediction: camapp.Prediction, frame: camapp.Frame, trace: camapp.Trace) -> None:
        """Print the events that begin with this frame."""
        for event in self._trigger.begins(prediction, frame, trace):
            print(f"frame {frame.seq}: {event.name}, now {event.count or 1} {event.label} ({event.score:.0%})")


def main() -> None:
    """Watch the source until it ends or the seconds are over."""
    source, model, seconds, *events = sys.argv[1:]
    for _ in camapp.watch(source, model=model, sinks=[EventPrinter(events)], duration=seconds):
        pass


if __name__ == "__main__":
    main()
