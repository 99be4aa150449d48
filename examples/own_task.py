"""Distinguishes vehicles from animals with a task: python examples/own_task.py [SOURCE] [SECONDS]

The net `objects` has ten classes. A task decides what its numbers mean: this one sums them in two groups.
"""

import sys
from collections.abc import Sequence

import camapp
from camapp.core.arrays import Floats
from camapp.core.image_ops import Preprocessor
from camapp.tasks.smoothing import softmax
from engine import ModelCard

VEHICLES = {"airplane", "automobile", "ship", "truck"}


class VehicleTask(camapp.Task):
    """Labels an image "vehicle" or "animal"."""

    name = "vehicles"

    def __init__(self, card: ModelCard, options: camapp.TaskOptions) -> None:
        super().__init__(card, options)
        self._preprocess = Preprocessor(card, options.fit, options.roi)

    def prepare(self, frame: camapp.Frame, batch: Floats) -> camapp.Prepared:
        """Write the image into the first item of the batch (items, channels, height, width)."""
        return camapp.Prepared(1, self._preprocess(frame.model_view, batch[0]))

    def decode(
        self, frame: camapp.Frame, outputs: Sequence[Floats], prepared: camapp.Prepared, now_ns: int
    ) -> camapp.Prediction:
        """Sum the scores of the vehicles; `outputs` are the raw numbers of the net, (1, 10)."""
        scores = softmax(outputs[0][0])
        vehicle = float(sum(scores[index] for index, label in enumerate(self.card.labels) if label in VEHICLES))
        label = "vehicle" if vehicle > 0.5 else "animal"
        return camapp.Prediction(frame.seq, self.name, label, max(vehicle, 1 - vehicle), values={"vehicle": vehicle})


def main() -> None:
    """Print the label of every result."""
    source = sys.argv[1] if len(sys.argv) > 1 else "pattern://objects?size=640x360"
    seconds = sys.argv[2] if len(sys.argv) > 2 else 10
    with camapp.watch(source, model="objects", task=VehicleTask, duration=seconds) as results:
        for result in results:
            print(f"frame {result.frame.seq}: {result.prediction.label} ({result.prediction.score:.0%})")


if __name__ == "__main__":
    main()
