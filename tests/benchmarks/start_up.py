"""Measures the time from process start to the first prediction on stdout, and the time of --help.

python -m tests.benchmarks.start_up [--rounds 7]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.benchmarks.common import ROOT, benchmark_parser, print_conditions

RUN = ["-m", "camapp", "run", "--source", "pattern://digits", "--display", "none", "--log", "-", "--max-frames", "3"]


def first_prediction() -> float:
    """Return the seconds to the first line of output."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *RUN], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        seconds = time.perf_counter() - start
        child.stdout.read()
    if not line.startswith(b'{"schema"'):
        raise SystemExit("no prediction was printed")
    return seconds


def help_text(*command: str) -> float:
    """Return the seconds of a complete --help."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "camapp", *command, "--help"], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--rounds", type=int, default=7, help="number of measurements")
    options = parser.parse_args()
    print_conditions()
    for name, measure in (
        ("first prediction", first_prediction),
        ("--help", help_text),
        ("run --help", lambda: help_text("run")),
    ):
        values = [measure() for _ in range(options.rounds)]
        print(
            f"{name:<17} median {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})", flush=True
        )


if __name__ == "__main__":
    main()
