"""Measures the latency from a prediction to another MQTT client, and the effect of broker failures on predictions.

python -m tests.benchmarks.mqtt_latency [--seconds 20]

All predictions are published, 30 per second. The lower bound is a bare paho-mqtt client that publishes at the same
time from an idle process. Needs mosquitto.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho

from camapp.core.settings import load_settings
from camapp.pipeline.pipeline import Pipeline
from camapp.remote.mqtt.client import access
from camapp.remote.mqtt.interface import MqttInterface, Timing
from tests.benchmarks.common import ROOT, benchmark_parser, print_conditions
from tests.camapp.remote.mqtt.mosquitto import Mosquitto


def main() -> None:
    parser = benchmark_parser()
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each run")
    parser.add_argument("--listen", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        listen(options.listen, options.seconds)
        return
    print_conditions()
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker").start()
        try:
            with listener(broker.port, options.seconds) as received:
                figures = run(options.seconds, broker.uri)
            report("prediction decoded to another client", received["camapp"])
            report("bare client to another client", received["bare"])
            row("with a broker", figures)
            row("without MQTT", run(options.seconds, None))
            row("broker floods us with commands", run(options.seconds, broker.uri, lambda: flood(broker.port)))
            row("broker killed after half the time", run(options.seconds, broker.uri, broker.kill))
        finally:
            broker.kill()
        row("no broker during the whole run", run(options.seconds, broker.uri))


def run(seconds: float, uri: str | None, trouble: Callable[[], object] | None = None) -> Pipeline:
    """Run the pipeline live; `trouble` is called after half of the time."""
    settings = load_settings({"source": "pattern://digits?size=640x480", "duration": seconds}, environment={})
    pipeline = Pipeline(settings)
    interface = MqttInterface([pipeline], access(uri, None, None), "bench", Timing(heartbeat=0.0)) if uri else None
    if interface:
        interface.attach()
        interface.start()
    if trouble:
        timer = threading.Timer(seconds / 2, trouble)
        timer.daemon = True
        timer.start()
    pipeline.run()
    if interface:
        interface.stop()
    return pipeline


def row(name: str, pipeline: Pipeline) -> None:
    """Print the share of predicted frames and percentiles of the latency."""
    balance = pipeline.stats.balance()
    p50, p95, p99 = pipeline.stats.latency["total"].at(50, 95, 99)
    share = balance.predicted / max(1, balance.captured)
    print(f"{name:<32} predicted {share:6.1%} of {balance.captured}  p50 {p50:5.1f}  p95 {p95:5.1f}  p99 {p99:5.1f} ms")


def report(name: str, latencies: list[float]) -> None:
    """Print percentiles of latencies in milliseconds."""
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    print(
        f"{name:<38} p50 {p50:5.2f}  p95 {p95:5.2f}  p99 {p99:5.2f}  max {max(latencies):5.2f} ms  (n={len(latencies)})"
    )


def flood(port: int) -> None:
    """Send a thousand commands per second for about two seconds."""
    client = bare_client(port)
    for _ in range(200):
        for _ in range(10):
            client.publish("camapp/bench/camera/set/model", b"rubbish")
        time.sleep(0.01)
    client.disconnect()


@contextmanager
def listener(port: int, seconds: float) -> Iterator[dict[str, list[float]]]:
    """Receive messages in another process; yields a dict that is filled at the end."""
    command = [sys.executable, "-m", "tests.benchmarks.mqtt_latency", "--listen", str(port), "--seconds", str(seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    received: dict[str, list[float]] = {}
    try:
        yield received
        output, _ = process.communicate(timeout=seconds + 60)
        received |= json.loads(output)
    finally:
        process.kill()


def listen(port: int, seconds: float) -> None:
    """Print as JSON the milliseconds from the end of a prediction, and from publishing by a bare client, to receipt."""
    latencies: dict[str, list[float]] = {"camapp": [], "bare": []}

    def on_message(client: Any, data: Any, message: paho.MQTTMessage) -> None:
        now = time.monotonic_ns()
        if message.retain:
            return
        if message.topic == "bare":
            latencies["bare"].append((now - int(message.payload)) / 1e6)
            return
        record = json.loads(message.payload)
        decoded = record["t_mono_ns"] + record["latency_ms"]["total"] * 1e6
        latencies["camapp"].append((now - decoded) / 1e6)

    client = bare_client(port)
    client.on_message = on_message
    client.subscribe([("camapp/bench/camera/prediction", 1), ("bare", 1)])
    sender = bare_client(port)
    deadline = time.monotonic() + seconds + 8
    while time.monotonic() < deadline:
        if latencies["camapp"]:
            sender.publish("bare", str(time.monotonic_ns()), qos=1)
        time.sleep(1 / 30)
    print(json.dumps(latencies))


def bare_client(port: int) -> paho.Client:
    """Return a connected client with its network thread running."""
    versions = getattr(paho, "CallbackAPIVersion", None)
    client = paho.Client(versions.VERSION2) if versions else paho.Client()
    client.connect("localhost", port)
    client.loop_start()
    return client


if __name__ == "__main__":
    main()
