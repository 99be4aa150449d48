"""Counts labels with a sink: python examples/own_sink.py [SOURCE] [SECONDS]

A sink receives every prediction, also those for which a loop over the results is too slow.
"""

import sys
from collections import Counter

import camapp


class LabelCounter(camapp.PredictionSink):
    """Counts how often each label follows another one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._last = ""

    def accept(self, prediction: camapp.Prediction, frame: camapp.Frame, trace: camapp.Trace) -> None:
        """Count a change of the label; return at once, since inference waits for it."""
        if prediction.label not in ("", self._last):
            self.counts[prediction.label] += 1
            print(f"frame {frame.seq}: {prediction.label} after {trace.latency_ms()['total']:.0f} ms")
        self._last = prediction.label


def main() -> None:
    """Watch the source until it ends or the seconds are over."""
    source = sys.argv[1] if len(sys.argv) > 1 else "pattern://digits?size=640x360"
    seconds = sys.argv[2] if len(sys.argv) > 2 else 10
    counter = LabelCounter()
    for _ in camapp.watch(source, model="digits", sinks=[counter], duration=seconds):
        pass
    print(counter.counts.most_common())


if __name__ == "__main__":
    main()
