"""Measures drops and the pipeline's latency for a 1280x720 file at 30 fps in real time: 2 workers, no display.

python -m tests.benchmarks.live_latency [--seconds 60]
"""

from __future__ import annotations

from camapp.commands.bench import measure
from camapp.core.settings import load_settings
from tests.benchmarks.common import benchmark_parser, clip, print_conditions


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the video")
    parser.add_argument("--model", default="mnist", help="name or path of the model")
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
        f"CPU {figures['cpu_ms_per_frame']:.2f} ms per frame in all processes, peak RSS {figures['peak_rss_mb']:.0f} MB"
    )


if __name__ == "__main__":
    main()
