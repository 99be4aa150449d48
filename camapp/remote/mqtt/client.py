"""Keeps a connection to an MQTT broker from one thread; messages wait in an `OutgoingQueue`."""

from __future__ import annotations

import logging
import os
import random
import secrets
import select
import socket
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camapp.core.addresses import MqttAddress, parse_mqtt
from camapp.core.errors import SinkError
from camapp.remote.mqtt.queue import CAPACITY, Message, OutgoingQueue

if TYPE_CHECKING:
    import paho.mqtt.client as paho

log = logging.getLogger(__name__)

# Largest packet that the broker may send to this client, bytes (MQTT 5, 3.1.2.11.4).
MAX_PACKET = 65536
_IN_FLIGHT = 20
_LOST = "the connection was lost"
# Reason codes of MQTT 5, 2.4.
_BAD_PASSWORD, _NOT_AUTHORISED, _BAD_VERSION = 134, 135, 132


@dataclass(frozen=True)
class Timeouts:
    """Bounds the waits of a client; all values are in seconds.

    Attributes:
        answer: for the broker's answer to CONNECT.
        retry: pause after a failed connection; doubled with each further one, up to `retry_max`.
        retry_flood: pause after a connection that was ended because of a flood.
        mute: after a flood, nothing is subscribed to for this time.
        goodbye: to send the waiting messages when the client stops.
        join: for the thread to end.
    """

    connect: float = 5.0
    answer: float = 10.0
    keepalive: int = 20
    retry: float = 1.0
    retry_max: float = 30.0
    retry_flood: float = 0.1
    mute: float = 60.0
    goodbye: float = 0.7
    join: float = 1.5
    tick: float = 1.0


@dataclass(frozen=True)
class Subscription:
    """Selects the messages that a client receives.

    Attributes:
        topics: topic filters.
        on_message: called in the client's thread with topic, payload and whether it was retained; returns soon.
        with_retained: also receive messages that were retained before the connection.
        max_rate: more messages than this within a second are an attack or a loop, and end the connection; 0 for any.
    """

    topics: Sequence[str] = ()
    on_message: Callable[[str, bytes, bool], None] = lambda topic, payload, retained: None
    with_retained: bool = False
    max_rate: int = 100


@dataclass(frozen=True)
class Access:
    """Holds the address and credentials of a broker.

    Attributes:
        address: of the broker, with the user.
        password: None for none.
        ca: CA certificate (PEM) to verify the broker; None for the authorities that the system trusts.
    """

    address: MqttAddress
    password: str | None
    ca: Path | None

    def __repr__(self) -> str:
        return f"Access({self.address})"


def access(uri: str, password_file: Path | None, ca: Path | None) -> Access:
    """Return the access to the broker at `uri`, with the password from the file, else from the environment.

    CAMAPP_MQTT_PASSWORD is removed from the environment, so that no child process inherits it.

    Raises:
        ValueError: the address is invalid.
        SinkError: a file cannot be used.
    """
    address = parse_mqtt(uri)
    password = os.environ.pop("CAMAPP_MQTT_PASSWORD", None)
    if password_file is not None:
        try:
            with password_file.open(encoding="utf-8") as file:
                password = file.read(1024).removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise SinkError(
                f"cannot read --mqtt-password-file {password_file}: {why}", denied=isinstance(error, PermissionError)
            ) from error
    if password and not address.user:
        raise SinkError("a password for MQTT, but no user: write mqtt://USER@HOST")
    if ca is not None and not address.tls:
        raise SinkError("--mqtt-ca is for TLS: write mqtts:// in place of mqtt://")
    return Access(address, password, ca)


class MqttClient:
    """Keeps a connection to a broker, and connects again after every fault.

    No method blocks, and no fault of the broker raises; the log has one line for each fault, and one when it is over.

    Args:
        name: client id; letters are added, because a broker ends the older connection of two clients of one id.
        will: message that the broker sends if this client vanishes; None for none.
        on_connected: called in the client's thread after each connection, to set all states that the broker may lack.
        on_tick: called in the client's thread while connected, every `timeouts.tick` seconds; returns soon.
        capacity: maximum number of events that wait while the broker is away.

    Attributes:
        connected: whether the broker has accepted this client.
        reason: why it has not, or "".
        queue: the messages that wait, and the counts of those sent and lost.

    Raises:
        SinkError: paho-mqtt is not installed, or a certificate cannot be used.
    """

    def __init__(
        self,
        access: Access,
        name: str,
        will: Message | None = None,
        subscription: Subscription = Subscription(),
        on_connected: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
        capacity: int = CAPACITY,
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self.connected = False
        self.reason = ""
        self.queue = OutgoingQueue(capacity)
        self._access = access
        self._client_id = f"{name}-{secrets.token_hex(3)}"
        self._will = will
        self._subscription = subscription
        self._on_connected, self._on_tick = on_connected, on_tick
        self._timeouts = timeouts
        self._paho = _import_paho()
        self._tls = _tls_context(access.ca) if access.address.tls else None
        self._window = _IN_FLIGHT
        # Start of the current second, and the messages received in it.
        self._second, self._received = 0.0, 0
        self._muted_until = 0.0
        self._ended = ""
        self._retry = timeouts.retry
        self._next_tick = 0.0
        self._stopping = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Not by `stop`: another thread may still send a message.
        weakref.finalize(self, os.close, self._wake)
        self._thread = threading.Thread(target=self._serve, name="mqtt", daemon=True)

    def start(self) -> None:
        """Start to connect; returns at once."""
        self._thread.start()

    def put(self, topic: str, payload: bytes) -> None:
        """Send an event, from any thread: all arrive, in order, unless more than `capacity` wait."""
        self.queue.put(Message(topic, payload))
        os.eventfd_write(self._wake, 1)

    def set(self, topic: str, payload: bytes) -> None:
        """Send a state, from any thread: it replaces a waiting one of the same topic."""
        self.queue.set(Message(topic, payload))
        os.eventfd_write(self._wake, 1)

    def tick_soon(self) -> None:
        """Call `on_tick` as soon as possible."""
        self._next_tick = 0.0
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Send the waiting messages, if the broker takes them at once, and disconnect."""
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(self._timeouts.join)
        lost = self.queue.lost + len(self.queue)
        if lost:
            log.warning("the MQTT broker %s did not get %d messages", self._access.address, lost)

    # -- in the client's thread

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._ended = ""
            client = self._client()
            try:
                self._connect(client)
                self._run(client)
            except Exception as error:
                # The next connection may work, whatever the fault was.
                self._ended = f"{type(error).__name__}: {error}"
                log.debug("traceback", exc_info=error)
            finally:
                self._disconnect(client)
            if self._stopping.is_set():
                return
            self._log_fault(self._ended or _LOST)
            # A random share, so that the clients of a broker that returns do not all connect at once.
            self._stopping.wait(self._retry * random.uniform(1, 1.5))
            self._retry = min(max(2 * self._retry, self._timeouts.retry), self._timeouts.retry_max)

    def _log_fault(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            log.warning("MQTT broker %s: %s (retrying; predictions continue)", self._access.address, reason)

    def _connect(self, client: paho.Client) -> None:
        address = self._access.address
        properties = self._paho.properties.Properties(self._paho.packettypes.PacketTypes.CONNECT)
        properties.MaximumPacketSize = MAX_PACKET
        try:
            client.connect(
                address.host, address.port, self._timeouts.keepalive, clean_start=True, properties=properties
            )
        except (OSError, ValueError) as error:
            self._ended = _explained(error, self._access, self._timeouts.connect)

    def _run(self, client: paho.Client) -> None:
        """Serve one connection until it ends, or until `stop` and a last attempt to send."""
        answer_by = time.monotonic() + self._timeouts.answer
        goodbye_by = 0.0
        self._next_tick = 0.0
        subscribed = False
        while not self._ended and client.socket() is not None:
            now = time.monotonic()
            if self.connected:
                # Sends first: a tick may take a millisecond or two.
                self._send(client)
                if now >= self._next_tick:
                    self._next_tick = now + self._timeouts.tick
                    self._on_tick()
                if not subscribed and now >= self._muted_until:
                    subscribed = True
                    self._subscribe(client)
            elif now > answer_by:
                self._ended = f"no answer within {self._timeouts.answer:.0f} s"
            if self._stopping.is_set():
                goodbye_by = goodbye_by or now + self._timeouts.goodbye
                if not self.connected or now > goodbye_by or self.queue.is_idle:
                    return
            self._exchange(client)

    def _exchange(self, client: paho.Client) -> None:
        """Read and write what is possible, else wait for the socket, for a message to send, or for the next tick."""
        connection: Any = client.socket()
        if connection is None:
            return
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(connection, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        decrypted = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
        wait = 0.0 if decrypted else min(max(0.0, self._next_tick - time.monotonic()) if self.connected else 0.2, 1.0)
        ready = dict(poll.poll(wait * 1000))
        if self._wake in ready:
            os.eventfd_read(self._wake)
        events = ready.get(connection.fileno(), 0)
        result = 0
        if decrypted or events & ~select.POLLOUT:
            result = client.loop_read()
        if not result and events & select.POLLOUT:
            result = client.loop_write()
        if not result:
            result = client.loop_misc()
        if result and not self._ended:
            self._ended = (
                _LOST
                if self.connected
                else "it closed the connection without an answer"
                + ("" if self._tls else "; if that port is for TLS, write mqtts:// in place of mqtt://")
            )

    def _send(self, client: paho.Client) -> None:
        def publish(message: Message) -> int:
            return client.publish(message.topic, message.payload, qos=1, retain=True).mid

        # If the socket is full, paho gets nothing more: its own queue has no bound.
        while self.queue.in_flight < self._window and not client.want_write() and self.queue.send_next(publish):
            pass

    def _subscribe(self, client: paho.Client) -> None:
        make = self._paho.subscribeoptions.SubscribeOptions
        retained = self._subscription.with_retained
        handling = make.RETAIN_SEND_ON_SUBSCRIBE if retained else make.RETAIN_DO_NOT_SEND
        options = make(qos=1, noLocal=True, retainHandling=handling)
        if self._subscription.topics:
            client.subscribe([(topic, options) for topic in self._subscription.topics])

    def _disconnect(self, client: paho.Client) -> None:
        self.connected = False
        if client.socket() is not None:
            # Without DISCONNECT the broker would send the will.
            client.disconnect()
            client.loop_write()
        connection: Any = client.socket()
        if connection is not None:
            connection.close()
        self.queue.requeue()

    # -- called by paho, in the client's thread too

    def _client(self) -> paho.Client:
        """Return a new paho client: each connection has its own, so that no state of the old one remains."""
        client = new_client(
            self._paho.client, self._client_id, self._handle_connect, self._handle_disconnect, self._handle_publish
        )
        client.on_message = lambda _client, _data, message: self._handle_message(message)
        client.max_inflight_messages_set(_IN_FLIGHT)
        if hasattr(client, "connect_timeout"):
            client.connect_timeout = self._timeouts.connect
        if self._access.address.user:
            client.username_pw_set(self._access.address.user, self._access.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        return client

    def _handle_connect(self, code: int, text: str, receive_maximum: int) -> None:
        if code:
            self._ended = _refused(code, text)
            return
        self.connected = True
        self._retry = self._timeouts.retry
        self._window = min(_IN_FLIGHT, receive_maximum)
        if self.reason:
            log.warning("MQTT broker %s is back; messages lost so far: %d", self._access.address, self.queue.lost)
            self.reason = ""
        else:
            log.info("MQTT broker %s: connected as %s", self._access.address, self._client_id)
        self._on_connected()

    def _handle_disconnect(self, code: int, text: str) -> None:
        if code and not self._ended:
            self._ended = f"it ended the connection: {text}"

    def _handle_publish(self, number: int, code: int, text: str) -> None:
        accepted = code < 128
        message = self.queue.acknowledge(number, accepted)
        if message is not None and not accepted and self.queue.lost == 1:
            log.warning("MQTT broker %s refuses %s: %s (logged once)", self._access.address, message.topic, text)

    def _handle_message(self, message: paho.MQTTMessage) -> None:
        now = time.monotonic()
        if now - self._second > 1:
            self._second, self._received = now, 0
        self._received += 1
        limit = self._subscription.max_rate
        if limit and self._received > limit:
            # The broker's acknowledgements would queue behind the flood; a new connection has no such queue.
            self._muted_until = now + self._timeouts.mute
            self._retry = self._timeouts.retry_flood
            self._ended = f"more than {limit} messages a second came in: ignoring them for {self._timeouts.mute:.0f} s"
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # Not a topic of camapp.
            return
        self._subscription.on_message(topic, bytes(message.payload), bool(message.retain))


def new_client(
    module: Any,
    client_id: str,
    on_connect: Callable[[int, str, int], None],
    on_disconnect: Callable[[int, str], None],
    on_publish: Callable[[int, int, str], None],
) -> paho.Client:
    """Return an MQTT 5 client of paho-mqtt 1 or 2, whose callbacks differ.

    Args:
        on_connect: called with the broker's reason code, its text, and the maximum number of messages in flight.
        on_disconnect: called with reason code and text when the connection ends.
        on_publish: called with a message's number, reason code and text when the broker has accepted or rejected it;
            with paho-mqtt 1 the code is always 0.
    """

    def connected(client: Any, data: Any, flags: Any, code: Any, properties: Any = None) -> None:
        on_connect(_value(code), str(code), getattr(properties, "ReceiveMaximum", 65535))

    def published(client: Any, data: Any, number: int, code: Any = 0, properties: Any = None) -> None:
        on_publish(number, _value(code), str(code))

    if hasattr(module, "CallbackAPIVersion"):
        client = module.Client(module.CallbackAPIVersion.VERSION2, client_id, protocol=module.MQTTv5)

        def disconnected(client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
            on_disconnect(_value(code) if flags.is_disconnect_packet_from_server else 0, str(code))
    else:
        client = module.Client(client_id, protocol=module.MQTTv5)

        def disconnected(client: Any, data: Any, code: Any, properties: Any = None) -> None:  # type: ignore[misc]
            # A plain number is paho's own code for a lost connection.
            on_disconnect(0 if isinstance(code, int) else _value(code), str(code))

    client.on_connect, client.on_disconnect, client.on_publish = connected, disconnected, published
    new: paho.Client = client
    return new


def _value(code: Any) -> int:
    return int(getattr(code, "value", code))


def _import_paho() -> Any:
    try:
        import paho.mqtt.client
        import paho.mqtt.packettypes
        import paho.mqtt.properties
        import paho.mqtt.subscribeoptions
    except ImportError as error:
        raise SinkError(f"MQTT needs paho-mqtt: {sys.executable} -m pip install paho-mqtt") from error
    return paho.mqtt


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
        if ca is not None:
            # Python 3.13 demands extensions that the authorities people make for their own broker often lack.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context
    except PermissionError as error:
        raise SinkError(f"--mqtt-ca {ca}: no permission to read it", denied=True) from error
    except OSError as error:
        why = "it contains no certificate (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
        raise SinkError(f"--mqtt-ca {ca}: {why}") from error


def _refused(code: int, text: str) -> str:
    if code in (_BAD_PASSWORD, _NOT_AUTHORISED):
        return (
            "user or password refused; the user belongs in the address (mqtt://USER@HOST), "
            "the password in CAMAPP_MQTT_PASSWORD or --mqtt-password-file"
        )
    if code == _BAD_VERSION:
        return "it does not support MQTT 5: mosquitto does since 1.6"
    return f"it refused the connection: {text}"


def _explained(error: Exception, access: Access, connect_s: float) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); --mqtt-ca FILE gives the CA certificate"
    if isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionResetError) and access.address.tls):
        return "that port is not for TLS; without TLS, write mqtt:// in place of mqtts://"
    if isinstance(error, socket.gaierror):
        return f"there is no machine named '{access.address.host}'"
    if isinstance(error, TimeoutError):
        return f"no answer within {connect_s:.0f} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: is the broker running?"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
