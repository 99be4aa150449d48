"""Runs the shipped nets by the fixed rule, then with every other kernel that suits a node, and writes the outputs.

`python run_nets.py FILE.npz`, or `python run_nets.py FILE.npz --rule` for the rule alone. Run by test_aarch64.py on
this machine and under emulation. Keys of the file are NET/PLAN; `kernels` lists NET/LAYER=KERNEL of all that ran.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import engine
from engine.compiler.kernel_selection import KernelSelector
from engine.kernels import FUSED


@dataclass(frozen=True)
class EveryKernel(KernelSelector):
    """Selects for each node a kernel that did not run yet, if there is one; fuses nodes if `fused`."""

    fused: bool = True
    used: dict = field(default_factory=lambda: defaultdict(list))
    left: list = field(default_factory=list)

    def _prefer(self, node, inputs, offers):
        used = self.used[node.op_type, node.outputs[0]]
        new = [name for name in offers if name not in used]
        used += new[:1]
        self.left.append(len(new) - 1)
        return new[0] if new else next(iter(offers))

    def _prefer_fused(self, fused, separate):
        return self.fused


def outputs_of(model, rule_only):
    """Yield name, output and kernels (LAYER=KERNEL) of plans in which each kernel of each node runs once."""
    x = np.random.default_rng(7).standard_normal((1, *model.card.input_shape), np.float32)
    yield "rule", model.plan(x.shape, selector=KernelSelector()).run(x).copy(), []
    used = defaultdict(list)
    for fused in () if rule_only else (True, False):
        selector = EveryKernel(fused=fused, used=used)
        while not selector.left or max(selector.left) > 0:
            selector.left.clear()
            output = model.plan(x.shape, selector=selector).run(x).copy()
            kernels = [f"{name}={names[-1]}" for (_, name), names in used.items()]
            yield f"{'fused' if fused else 'separate'} {max(selector.left)}", output, kernels
        if not any(operator in FUSED for operator, _ in used):
            break


if __name__ == "__main__":
    found, kernels = {}, set()
    for file in sorted((Path(__file__).parents[2] / "weights").glob("*.npz")):
        for plan, output, used in outputs_of(engine.load(file), "--rule" in sys.argv):
            found[f"{file.stem}/{plan}"] = output
            kernels |= {f"{file.stem}/{each}" for each in used}
    np.savez(sys.argv[1], kernels=sorted(kernels), **found)
