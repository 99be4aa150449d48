"""Where the page is served: HOST:PORT as a user writes it, and whether that can be reached from elsewhere."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen at."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What to type into a browser on this machine."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return f"http://{Address(everywhere.get(self.host, self.host), self.port)}/"

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """'127.0.0.1:8080', 'localhost', '[::1]:8080', and '8080' or ':8080' for a port of this machine alone.

    Raises:
        ValueError: it is none of these.
    """
    wanted = text.strip()
    if wanted.isdecimal():
        wanted = f":{wanted}"
    if match := re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?", wanted):
        host, port = match[1], match[2]
    else:
        host, colon, port = wanted.partition(":")
        if colon and not re.fullmatch(r"\d{1,5}", port):
            raise ValueError(_USE)
    if ":" in host or re.fullmatch(r"[\d.]+", host):
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError(f"{host} is no IP address; {_USE}") from None
    elif host and not _NAME.fullmatch(host):
        raise ValueError(_USE)
    number = int(port) if port else DEFAULT_PORT
    if not 0 <= number <= 65535:
        raise ValueError("a port is 1 to 65535 (0 takes a free one)")
    return Address(host or DEFAULT_HOST, number)


_USE = f"HOST:PORT, such as {DEFAULT_HOST}:{DEFAULT_PORT} (this machine alone) or 0.0.0.0:{DEFAULT_PORT} (the network)"
