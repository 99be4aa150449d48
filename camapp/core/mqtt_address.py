"""Where a broker is, as a URI says it, and what this device is called there."""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

USE = "mqtt://[USER@]HOST[:PORT][/PREFIX], or mqtts:// for TLS"
DEFAULT_PREFIX = "camapp"
_PORTS = {"mqtt": 1883, "mqtts": 8883}
# A level of a topic has no wildcard and no control character; MQTT 5, 4.7.
_PREFIX = re.compile(r"[^\s/+#$\x00-\x1f\x7f][^+#\x00-\x1f\x7f]{0,99}")


@dataclass(frozen=True)
class Address:
    """A broker's. The password is never part of it, so that it may be shown.

    Attributes:
        host: name or number.
        port: 1883, or 8883 with TLS, if the URI has none.
        tls: whether the way there is encrypted and the broker proves who it is.
        user: "" for none.
        prefix: first level (or levels) of all topics.
    """

    host: str
    port: int
    tls: bool
    user: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(uri: str) -> Address:
    """The parts of a broker's URI.

    Raises:
        ValueError: it is none; the text says what to do and holds no password.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:  # its text may hold a part of a password
        raise ValueError(f"it is {USE}") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise ValueError(f"it is {USE}")
    if parts.password is not None:
        raise ValueError(
            "no password in the address, where others would see it: "
            "give it by the environment variable CAMAPP_MQTT_PASSWORD or by --mqtt-password-file"
        )
    prefix = unquote(parts.path).strip("/") or DEFAULT_PREFIX
    if not _PREFIX.fullmatch(prefix) or "//" in prefix:
        raise ValueError(f"'{prefix}' cannot begin topics: it has no +, # or $, and at most 100 characters")
    return Address(
        parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "mqtts", unquote(parts.username or ""), prefix
    )


def checked_address(uri: str) -> str:
    """The URI itself, if it is one. Raises ValueError like `parse_address`."""
    parse_address(uri)
    return uri


def device_id(name: str | None = None, root: Path = Path("/")) -> str:
    """What this device is called in topics and to Home Assistant, the same after every boot.

    The name that the user gave; else the host's with four letters made of the machine's id, for most Raspberry Pis are
    called raspberrypi.
    """
    if name:
        return name
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:40] or "device"
    try:
        machine = (root / "etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    # machine-id(5): the id itself is to be kept confidential.
    return f"{host}-{hashlib.sha256(f'camapp {machine}'.encode()).hexdigest()[:4]}" if machine else host
