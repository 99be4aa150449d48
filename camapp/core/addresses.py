"""Parses the addresses of the web page and the MQTT broker, and names this device."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

WEB_HOST, WEB_PORT = "127.0.0.1", 8080
MQTT_PREFIX = "camapp"
MQTT_SYNTAX = "mqtt://[USER@]HOST[:PORT][/PREFIX], or mqtts:// for TLS"
_WEB_SYNTAX = f"HOST:PORT, such as {WEB_HOST}:{WEB_PORT} (this machine only) or 0.0.0.0:{WEB_PORT} (the network)"
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}
# A topic level contains no wildcard and no control character; MQTT 5, 4.7.
_TOPIC_PREFIX = re.compile(r"[^\s/+#$\x00-\x1f\x7f][^+#\x00-\x1f\x7f]{0,99}")
# A stream without its scheme: an IPv4 address, a name of the local network, or any host with a port.
_STREAM = re.compile(
    r"([^\s/@]+@)?((\d{1,3}(\.\d{1,3}){3}|localhost|[\w-]+(\.[\w-]+)*\.(local|lan|home))(:(?P<port>\d+))?"
    r"|[\w-]+(\.[\w-]+)*:(?P<own_port>\d+))(/\S*)?",
    re.ASCII | re.IGNORECASE,
)
_STREAM_SCHEMES = {"554": "rtsp", "8554": "rtsp", "1935": "rtmp"}


def plain_source(text: str) -> str:
    """Return the URI of a source in plain words, `0`, `picamera` or `192.168.1.20/stream`; any other as it is.

    The scheme of an address follows from its port, and is http:// without one. A file of that name goes first.
    """
    if os.path.exists(text):
        return text
    if text.isdecimal():
        return f"v4l2://{int(text)}"
    if text == "picamera":
        return "picamera://0"
    if found := _STREAM.fullmatch(text):
        return f"{_STREAM_SCHEMES.get(found['port'] or found['own_port'], 'http')}://{text}"
    return text


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Holds the address that the web server listens on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the URL for a browser on this machine."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return f"http://{WebAddress(local.get(self.host, self.host), self.port)}/"

    @property
    def urls(self) -> list[str]:
        """Return the URLs for browsers: on all addresses, that of this machine in its network comes first, if any."""
        family = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}.get(self.host)
        own = _own_address(family) if family is not None else ""
        return [f"http://{WebAddress(own, self.port)}/"] * bool(own) + [self.url]

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _own_address(family: int) -> str:
    """Return the address of this machine on the way to other networks, or "" without a network; sends nothing."""
    # Addresses for documentation: RFC 5737 and RFC 3849.
    target = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def parse_web(text: str) -> WebAddress:
    """Parse '127.0.0.1:8080', 'localhost', '[::1]:8080', or '8080' and ':8080' for a port of this machine only.

    Raises:
        ValueError: not one of these forms.
    """
    text = text.strip()
    if text.isdecimal():
        text = f":{text}"
    if match := re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?", text):
        host, port = match[1], match[2]
    else:
        host, colon, port = text.partition(":")
        if colon and not re.fullmatch(r"\d{1,5}", port):
            raise ValueError(_WEB_SYNTAX)
    if ":" in host or re.fullmatch(r"[\d.]+", host):
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(f"{host} is not an IP address; {_WEB_SYNTAX}") from None
    elif host and not _HOST_NAME.fullmatch(host):
        raise ValueError(_WEB_SYNTAX)
    number = int(port) if port else WEB_PORT
    if not 0 <= number <= 65535:
        raise ValueError("a port is 1 to 65535 (0 takes a free one)")
    return WebAddress(host or WEB_HOST, number)


@dataclass(frozen=True)
class MqttAddress:
    """Holds the address of an MQTT broker, never with the password, so that it may be shown.

    Attributes:
        port: by default 1883, or 8883 with TLS.
        tls: whether the connection is encrypted and the broker's certificate verified.
        prefix: first level (or levels) of all topics.
    """

    host: str
    port: int
    tls: bool
    user: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_mqtt(uri: str) -> MqttAddress:
    """Parse the URI of a broker.

    Raises:
        ValueError: not such a URI; the message names the syntax and contains no password.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    # The text of this error may contain a part of a password.
    except ValueError:
        raise ValueError(f"it is {MQTT_SYNTAX}") from None
    if parts.scheme not in _MQTT_PORTS or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise ValueError(f"it is {MQTT_SYNTAX}")
    if parts.password is not None:
        raise ValueError(
            "no password in the address, where others would see it: "
            "give it by the environment variable CAMAPP_MQTT_PASSWORD or by --mqtt-password-file"
        )
    prefix = unquote(parts.path).strip("/") or MQTT_PREFIX
    if not _TOPIC_PREFIX.fullmatch(prefix) or "//" in prefix:
        raise ValueError(f"'{prefix}' cannot begin topics: it has no +, # or $, and at most 100 characters")
    user = unquote(parts.username or "")
    return MqttAddress(parts.hostname, port or _MQTT_PORTS[parts.scheme], parts.scheme == "mqtts", user, prefix)


def device_id(name: str | None = None, root: Path = Path("/")) -> str:
    """Return the name of this device in topics and Home Assistant; it stays the same after a reboot.

    Without `name` it is the host name with four letters derived from the machine's id, because most Raspberry Pis have
    the host name raspberrypi.
    """
    if name:
        return name
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:40] or "device"
    try:
        machine = (root / "etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    # machine-id(5): the id itself must be kept confidential.
    return f"{host}-{hashlib.sha256(f'camapp {machine}'.encode()).hexdigest()[:4]}" if machine else host
