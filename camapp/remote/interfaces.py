"""Faces: ways to see and steer a run from elsewhere, a page and a broker, made if the settings ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Protocol

from camapp.core.settings import Settings
from camapp.remote.commands import CameraControl


class RemoteInterface(Protocol):
    """What shows all cameras to the world outside, and takes its orders."""

    def start(self) -> None:
        """Raises SinkError."""

    def stop(self) -> None:
        """Within a second or two, even if it was never started."""


def build_interfaces(pipelines: Sequence[CameraControl], reread: Callable[[str], Settings]) -> list[RemoteInterface]:
    """Those that the settings name, not yet started.

    Args:
        pipelines: one a camera.
        reread: gives a camera's settings anew, by its name.

    Raises:
        SinkError: one cannot be had as asked.
    """
    # Imported only here: few runs have a face, and their packages are optional.
    settings = pipelines[0].settings
    faces: list[RemoteInterface] = []
    if settings.web is not None:
        from camapp.remote.web.interface import WebInterface

        metrics = _metrics_of(pipelines)
        web = WebInterface(pipelines, settings.web, settings.web_hosts, metrics=metrics, reread=reread)
        web.attach()
        faces.append(web)
    if settings.mqtt is not None:
        from camapp.core.addresses import device_id
        from camapp.remote.mqtt.client import access
        from camapp.remote.mqtt.interface import MqttInterface

        broker = access(settings.mqtt, settings.mqtt_password_file, settings.mqtt_ca)
        mqtt = MqttInterface(pipelines, broker, device_id(settings.device_name))
        mqtt.attach()
        faces.append(mqtt)
    return faces


def check_interfaces(settings: Settings) -> None:
    """Whether what they need from this machine is there. Raises SinkError."""
    if settings.web is not None:
        from camapp.remote.web.interface import check_packages

        check_packages()
    if settings.mqtt is not None:
        from camapp.remote.mqtt.client import MqttClient, access

        MqttClient(access(settings.mqtt, settings.mqtt_password_file, settings.mqtt_ca), "check")


def _metrics_of(pipelines: Sequence[CameraControl]) -> Callable[[], str] | None:
    if find_spec("prometheus_client") is None:
        return None
    from camapp.remote.prometheus import Metrics

    metrics = Metrics(pipelines)
    return lambda: metrics.render().decode()
