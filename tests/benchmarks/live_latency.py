"""A 1280x720 30 fps file in real time with `mnist` and 2 workers, no display: drops, and the pipeline's own latency.

python -m tests.benchmarks.live_latency [--seconds 60]
"""

from __future__ import annotations

import argparse

from camapp.commands.bench import measure
from camapp.core.settings import load_settings
from tests.benchmarks.common import clip, print_conditions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", default="mnist")
    options = parser.parse_args()
    print_conditions()
    source = str(clip(options.seconds))
    settings = load_settings({"source": source, "realtime": True, "workers": 2, "model": options.model}, environment={})
    figures = measure(settings, options.seconds + 5, draw=False)
    print(figures["balance"])
    print("latency, ms     p50    p95    p99")
    for stage, values in figures["latency_ms"].items():
        print(f"{stage:<12} {values['p50']:6.2f} {values['p95']:6.2f} {values['p99']:6.2f}")
    print(
        f"CPU {figures['cpu_ms_per_frame']:.2f} ms a frame over all processes, peak RSS {figures['peak_rss_mb']:.0f} MB"
    )


if __name__ == "__main__":
    main()
