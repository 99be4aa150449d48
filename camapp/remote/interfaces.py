"""Builds the remote interfaces (web page, MQTT) that the settings enable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Protocol

from camapp.core.settings import Settings
from camapp.remote.commands import CameraControl
from camapp.sinks.drive_gate import DriveGate
from camapp.system.state_dir import state_directory


class RemoteInterface(Protocol):
    """Shows all cameras to remote clients and takes their commands."""

    def attach(self) -> None:
        """Add the sinks of this interface to its cameras; once, before the run starts."""

    def start(self) -> None:
        """Start to serve. Raises SinkError."""

    def stop(self) -> None:
        """Stop within two seconds; may be called without a start."""


def build_interfaces(
    cameras: Sequence[CameraControl], reread: Callable[[str], Settings], gate: DriveGate | None = None
) -> list[RemoteInterface]:
    """Build the interfaces that the settings enable, and start none.

    Args:
        cameras: all cameras of the run.
        reread: reads the settings of a camera again, by its name.
        gate: holds the cars of the run until the page releases them.

    Raises:
        SinkError: an interface cannot be used as requested.
    """
    # Imported only if enabled: few runs have a remote interface, and its packages are optional.
    settings = cameras[0].settings
    interfaces: list[RemoteInterface] = []
    if settings.web is not None:
        from camapp.remote.web.interface import WebInterface

        metrics = None
        if find_spec("prometheus_client") is not None:
            from camapp.remote.prometheus import Metrics

            metrics = Metrics(cameras).render
        page = WebInterface(cameras, settings.web, settings.web_hosts, metrics=metrics, reread=reread, gate=gate)
        interfaces.append(page)
    if settings.mqtt is not None:
        from camapp.core.addresses import device_id
        from camapp.remote.mqtt.client import access
        from camapp.remote.mqtt.interface import MqttInterface

        broker = access(settings.mqtt, settings.mqtt_password_file, settings.mqtt_ca)
        state = state_directory()
        interfaces.append(MqttInterface(cameras, broker, device_id(settings.device_name), state=state))
    for interface in interfaces:
        interface.attach()
    return interfaces


def check_interfaces(settings: Settings) -> None:
    """Check that this machine has what the enabled interfaces need. Raises SinkError."""
    if settings.web is not None:
        from camapp.remote.web.interface import check_packages

        check_packages()
    if settings.mqtt is not None:
        from camapp.remote.mqtt.client import MqttClient, access

        MqttClient(access(settings.mqtt, settings.mqtt_password_file, settings.mqtt_ca), "check")
