"""Runs a net with the engine alone, without cameras or tasks: python examples/run_a_net.py [MODEL FILE]"""

import sys
import time
from pathlib import Path

import numpy as np

import engine


def main() -> None:
    """Load a model, plan it for one item, and time its runs."""
    shipped = Path(__file__).parents[1] / "weights" / "lenet.npz"
    model = engine.load(sys.argv[1] if len(sys.argv) > 1 else shipped)
    # Planning is done once: it chooses kernels, fuses operators and reserves all memory.
    plan = model.plan((1, *model.card.input_shape))
    image = np.random.default_rng(1).random((1, *model.card.input_shape), np.float32)
    began, runs = time.perf_counter(), 100
    for _ in range(runs):
        # Valid until the next run of this plan.
        outputs = plan.run(image)
    seconds = (time.perf_counter() - began) / runs
    print(f"{model.card.net}: {plan.inputs[0].shape} -> {plan.outputs[0].shape}, {seconds * 1e3:.2f} ms")
    best = int(np.argmax(outputs))
    print(f"class {best}: {model.card.labels[best] if model.card.labels else 'no labels'}")


if __name__ == "__main__":
    main()
