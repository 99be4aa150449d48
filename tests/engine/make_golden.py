"""Write golden/*.npz, PyTorch's answers to the cases: `python -m tests.engine.make_golden` (needs torch)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.engine import net_cases, operator_cases

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    operators = {
        case.name: operator_cases.run_in_torch(case, case.inputs()) for case in operator_cases.CASES if case.in_torch
    }
    logits = {
        name: net_cases.run_in_torch(name, net_cases.weights(name), net_cases.images(name)) for name in net_cases.NETS
    }
    np.savez_compressed(GOLDEN / "operators.npz", **operators)
    np.savez_compressed(GOLDEN / "nets.npz", **logits)
    print(f"torch {torch.__version__}: {len(operators)} operator cases, {len(logits)} nets")


if __name__ == "__main__":
    main()
