"""Limits connections: their number, the time for a whole request, the bytes that wait to be sent.

uvicorn leaves these to a proxy in front of it, which a camera does not have.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 128
# Seconds for a whole request to arrive, and for the next one to begin.
REQUEST_S = 8.0
_SWEEP_S = 1.0
# Bytes; more than a few large images: a client with this much unsent data has stopped reading.
_MAX_UNSENT = 8 << 20

Address = tuple[str, int]


@dataclass
class _Connection:
    transport: asyncio.Transport
    since: float
    requests: int = 0


class ConnectionLimiter:
    """Limits all open connections of one server; one too many drops the one that has been idle for longest.

    Attributes:
        dropped: connections that were ended because of a limit.
    """

    def __init__(self) -> None:
        self.dropped = 0
        # In the order in which they became idle, the longest idle first.
        self._connections: OrderedDict[Address, _Connection] = OrderedDict()

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, transport: asyncio.Transport) -> None:
        """Add a new connection, or end it if there is no room."""
        if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
            self.dropped += 1
            transport.abort()
            return
        self._connections[_address(transport.get_extra_info("peername"))] = _Connection(transport, _now())

    def remove(self, transport: asyncio.Transport) -> None:
        """Remove a connection that has ended."""
        self._connections.pop(_address(transport.get_extra_info("peername")), None)

    @contextmanager
    def busy(self, scope: Scope) -> Iterator[None]:
        """Mark the connection of `scope` as busy while its request is answered."""
        address = _address(scope.get("client"))
        connection = self._connections.get(address)
        if connection is None:
            yield
            return
        connection.requests += 1
        try:
            yield
        finally:
            connection.requests -= 1
            connection.since = _now()
            if address in self._connections:
                self._connections.move_to_end(address)

    async def drop(self, scope: Scope) -> None:
        """End the connection of `scope` at once: its client has stopped reading."""
        address = _address(scope.get("client"))
        if address in self._connections:
            self._end(address)
        # asyncio reports the lost connection in the next iteration of the loop.
        await asyncio.sleep(0)

    def close(self) -> None:
        """End all connections."""
        for connection in self._connections.values():
            connection.transport.abort()

    async def sweep_forever(self) -> None:
        """Call `sweep` once a second."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.sweep(_now())

    def sweep(self, now: float) -> None:
        """End the connections that are idle for too long or do not read."""
        for address, connection in list(self._connections.items()):
            if connection.transport.is_closing() and connection.transport.get_write_buffer_size() == 0:
                del self._connections[address]
            elif self._is_over(connection, now):
                self._end(address)

    def _is_over(self, connection: _Connection, now: float) -> bool:
        if connection.transport.get_write_buffer_size() > _MAX_UNSENT:
            return True
        return not connection.requests and now - connection.since > REQUEST_S

    def _make_room(self) -> bool:
        idle = next((address for address, connection in self._connections.items() if not connection.requests), None)
        if idle is not None:
            self._end(idle)
        return idle is not None

    def _end(self, address: Address) -> None:
        self.dropped += 1
        self._connections.pop(address).transport.abort()


def _address(client: Any) -> Address:
    return (str(client[0]), int(client[1])) if client else ("", 0)


def _now() -> float:
    return asyncio.get_running_loop().time()


def protocol(limiter: ConnectionLimiter) -> type[H11Protocol]:
    """Return uvicorn's HTTP/1.1 protocol with these limits on its connections."""

    class Limited(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            limiter.add(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            limiter.remove(self.transport)
            super().connection_lost(exc)

    return Limited
