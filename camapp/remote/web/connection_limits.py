"""Bounds on connections: how many, how long one may say nothing whole, how much may wait to be sent to it.

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
# More than a few large images: whoever lets so much pile up has stopped reading.
_MAX_UNSENT = 8 << 20

Place = tuple[str, int]


@dataclass
class _Connection:
    transport: asyncio.Transport
    since: float
    requests: int = 0


class ConnectionLimiter:
    """All open connections of one server.

    Args:
        most: connections at a time. When one more comes, the one that has been idle longest goes.

    Attributes:
        turned_away: connections that were ended for time or room.
    """

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        self.turned_away = 0
        self._most = most
        # By when they last began to be idle: the longest first.
        self._guests: OrderedDict[Place, _Connection] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guests)

    def enter(self, transport: asyncio.Transport) -> None:
        """A new connection."""
        if len(self._guests) >= self._most and not self._make_room():
            self.turned_away += 1
            transport.abort()
            return
        self._guests[_place(transport.get_extra_info("peername"))] = _Connection(transport, _now())

    def leave(self, transport: asyncio.Transport) -> None:
        """One is gone."""
        self._guests.pop(_place(transport.get_extra_info("peername")), None)

    @contextmanager
    def busy(self, scope: Scope) -> Iterator[None]:
        """A request is being answered: the connection of that scope is not idle."""
        place = _place(scope.get("client"))
        guest = self._guests.get(place)
        if guest is None:
            yield
            return
        guest.requests += 1
        try:
            yield
        finally:
            guest.requests -= 1
            guest.since = _now()
            if place in self._guests:
                self._guests.move_to_end(place)

    async def expel(self, scope: Scope) -> None:
        """End the connection of that scope at once: whoever is there has stopped reading."""
        place = _place(scope.get("client"))
        if place in self._guests:
            self._end(place)
        await asyncio.sleep(0)  # the loss of the connection is told in the next round

    def close(self) -> None:
        """End all of them."""
        for guest in self._guests.values():
            guest.transport.abort()

    async def sweep_forever(self) -> None:
        """End what idles for too long or does not read, once a second."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.sweep(_now())

    def sweep(self, now: float) -> None:
        """The same, once."""
        for place, guest in list(self._guests.items()):
            if guest.transport.is_closing() and guest.transport.get_write_buffer_size() == 0:
                del self._guests[place]
            elif self._is_over(guest, now):
                self._end(place)

    def _is_over(self, guest: _Connection, now: float) -> bool:
        if guest.transport.get_write_buffer_size() > _MAX_UNSENT:
            return True
        return not guest.requests and now - guest.since > REQUEST_S

    def _make_room(self) -> bool:
        idle = next((place for place, guest in self._guests.items() if not guest.requests), None)
        if idle is not None:
            self._end(idle)
        return idle is not None

    def _end(self, place: Place) -> None:
        self.turned_away += 1
        self._guests.pop(place).transport.abort()


def _place(client: Any) -> Place:
    return (str(client[0]), int(client[1])) if client else ("", 0)


def _now() -> float:
    return asyncio.get_running_loop().time()


def protocol(doors: ConnectionLimiter) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 for connections that come in by these doors."""

    class Guarded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            doors.enter(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            doors.leave(self.transport)
            super().connection_lost(exc)

    return Guarded
