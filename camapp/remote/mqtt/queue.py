"""Holds the messages for a broker: waiting, in flight, or counted as sent or lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

CAPACITY = 1000


@dataclass(frozen=True)
class Message:
    """Holds one message. All are retained, so that a later subscriber gets the newest."""

    topic: str
    payload: bytes


class OutgoingQueue:
    """Queues events up to a bound, and keeps the latest state of each topic; any thread adds, one thread sends.

    Args:
        capacity: maximum number of waiting events; the oldest beyond it are dropped.

    Attributes:
        sent: messages that the broker has taken.
        lost: messages that it will never get: dropped here, or rejected by it.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.sent = 0
        self.lost = 0
        self._capacity = capacity
        self._lock = threading.Lock()
        self._states: dict[str, Message] = {}
        self._events: deque[Message] = deque()
        self._in_flight: dict[int, tuple[Message, bool]] = {}

    def __len__(self) -> int:
        """Return the number of waiting events; states are not counted."""
        return len(self._events)

    @property
    def in_flight(self) -> int:
        """Return the number of messages that were handed over, but not acknowledged."""
        return len(self._in_flight)

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits and nothing is in flight."""
        return not (self._in_flight or self._states or self._events)

    def put(self, message: Message) -> None:
        """Add an event: all are sent, in order."""
        with self._lock:
            self._events.append(message)
            self._trim()

    def set(self, message: Message) -> None:
        """Add a state: it replaces a waiting one of the same topic."""
        with self._lock:
            self._states[message.topic] = message

    def send_next(self, publish: Callable[[Message], int]) -> bool:
        """Hand the next message over, states first; return False if none waits.

        Args:
            publish: hands a message over and returns the number by which it will be acknowledged.
        """
        with self._lock:
            if is_state := bool(self._states):
                message = self._states.pop(next(iter(self._states)))
            elif self._events:
                message = self._events.popleft()
            else:
                return False
        self._in_flight[publish(message)] = message, is_state
        return True

    def acknowledge(self, number: int, accepted: bool = True) -> Message | None:
        """Count a message in flight as sent, else as lost, and return it; None if there is no such message."""
        message, _ = self._in_flight.pop(number, (None, False))
        if message is not None:
            # Other threads count dropped messages.
            with self._lock:
                self.sent += accepted
                self.lost += not accepted
        return message

    def requeue(self) -> None:
        """Put events in flight back in front, after a lost connection. States are dropped: the next one sets all."""
        with self._lock:
            self._events.extendleft(message for message, is_state in reversed(self._in_flight.values()) if not is_state)
            self._trim()
        self._in_flight.clear()

    def _trim(self) -> None:
        while len(self._events) > self._capacity:
            self._events.popleft()
            self.lost += 1
