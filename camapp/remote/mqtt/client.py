"""Link: the way to a broker, kept up by one thread: what is put there goes out, or waits, or is counted as lost."""

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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camapp.core.addresses import MqttAddress, parse_mqtt
from camapp.core.errors import SinkError

if TYPE_CHECKING:
    import paho.mqtt.client as paho

log = logging.getLogger(__name__)

# Messages that wait while the broker is away: the newest are kept.
KEEP = 1000
# The broker is told to send us nothing larger (MQTT 5, 3.1.2.11.4).
LARGEST = 65536
# More messages than this within a second are an attack or a loop: see `_heard`.
FLOOD = 100
DEAF_S = 60.0
_KEEPALIVE_S = 20
_CONNECT_S = 5.0
_ANSWER_S = 10.0
_RETRY_S, _RETRY_MOST_S, _RETRY_FLOOD_S = 1.0, 30.0, 0.1
_IN_FLIGHT = 20
_GOODBYE_S = 0.7
_JOIN_S = 1.5
_LOST = "the connection was lost"
# Reason codes of MQTT 5, 2.4.
_BAD_PASSWORD, _NOT_AUTHORISED, _BAD_VERSION = 134, 135, 132


@dataclass(frozen=True)
class Message:
    """One to send. All are retained: who comes later is told the newest."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Access:
    """What the broker wants to know.

    Attributes:
        address: where it is.
        password: None for none.
        ca: file with the certificate that the broker's is signed by; None for those that the system trusts.
    """

    address: MqttAddress
    password: str | None
    ca: Path | None

    def __repr__(self) -> str:
        return f"Access({self.address})"


def access(uri: str, password_file: Path | None, ca: Path | None) -> Access:
    """Access to the broker at an address, with the password of the file, else of the environment.

    The environment's is taken out of it, so that no child inherits it.

    Raises:
        ValueError: no such address.
        SinkError: a file cannot be used.
    """
    address = parse_mqtt(uri)
    password = os.environ.pop("CAMAPP_MQTT_PASSWORD", None)
    if password_file is not None:
        try:
            with password_file.open(encoding="utf-8") as file:
                password = file.read(1024).removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise SinkError(
                f"cannot read --mqtt-password-file {password_file}: {why}", denied=isinstance(error, PermissionError)
            ) from error
    if password and not address.user:
        raise SinkError("a password for MQTT, but no user: write mqtt://USER@HOST")
    if ca is not None and not address.tls:
        raise SinkError("--mqtt-ca is for TLS: write mqtts:// in place of mqtt://")
    return Access(address, password, ca)


class MqttClient:
    """Keeps a connection to a broker, whatever happens to it.

    Nothing here blocks who puts messages in, and nothing that the broker does or fails to do raises; the log has one
    line for each thing that is wrong, and one when it is over.

    Args:
        access: the broker.
        name: what the broker logs of us; letters are added, for of two clients of a name one's connection is ended.
        will: sent by the broker when this client vanishes; None for none.
        topics: filters to listen to.
        on_connected: called in the link's thread with each connection, to say all that the broker may have forgotten.
        on_message: called in the link's thread with topic, payload and whether it was retained; returns soon.
        on_tick: called in the link's thread while connected, about every `tick` seconds; returns soon.
        tick: seconds.
        with_retained: hear what was retained before, too.
        flood: messages a second that are too many; 0 for any number.

    Attributes:
        connected: whether the broker has let us in.
        reason: why not, or "".
        sent: messages that the broker has taken.
        lost: messages that it will never get.

    Raises:
        SinkError: paho-mqtt is not installed, or a certificate cannot be used.
    """

    def __init__(
        self,
        access: Access,
        name: str,
        will: Message | None = None,
        topics: Sequence[str] = (),
        on_connected: Callable[[], None] = lambda: None,
        on_message: Callable[[str, bytes, bool], None] = lambda topic, payload, retained: None,
        on_tick: Callable[[], None] = lambda: None,
        tick: float = 1.0,
        with_retained: bool = False,
        flood: int = FLOOD,
    ) -> None:
        self.connected = False
        self.reason = ""
        self.sent = 0
        self.lost = 0
        self._access = access
        self._client_id = f"{name}-{secrets.token_hex(3)}"
        self._will = will
        self._topics = topics
        self._on_connected, self._on_message, self._on_tick = on_connected, on_message, on_tick
        self._tick = tick
        self._with_retained = with_retained
        self._flood = flood
        self._paho = _import_paho()
        self._tls = _tls_context(access.ca) if access.address.tls else None
        self._lock = threading.Lock()
        self._states: dict[str, Message] = {}
        self._queue: deque[Message] = deque()
        self._in_flight: dict[int, tuple[Message, bool]] = {}
        self._window = _IN_FLIGHT
        self._heard_since, self._heard_count = 0.0, 0
        self._deaf_until = 0.0
        self._ended = ""
        self._retry = _RETRY_S
        self._next_tick = 0.0
        self._stopping = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def put(self, topic: str, payload: bytes) -> None:
        """Send, in order, every one of them, as long as not too many wait; from any thread."""
        with self._lock:
            self._queue.append(Message(topic, payload))
            self._trim()
        os.eventfd_write(self._wake, 1)

    def set(self, topic: str, payload: bytes) -> None:
        """Send; one of the same topic that still waits is forgotten for it, for only the newest matters."""
        with self._lock:
            self._states[topic] = Message(topic, payload)
        os.eventfd_write(self._wake, 1)

    def nudge(self) -> None:
        """Tick soon."""
        self._next_tick = 0.0
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Send what waits, if the broker takes it at once, and take leave."""
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
        with self._lock:
            left = len(self._queue)
        if self.lost + left:
            log.warning("the MQTT broker %s did not get %d messages", self._access.address, self.lost + left)

    # -- the thread

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._ended = ""
            client = self._client()
            try:
                self._connect(client)
                self._talk(client)
            except Exception as error:  # whatever it is, the next connection may have better luck
                self._ended = f"{type(error).__name__}: {error}"
                log.debug("traceback", exc_info=error)
            finally:
                self._hang_up(client)
            if self._stopping.is_set():
                return
            self._say(self._ended or _LOST)
            # Not all at once, where a broker comes back that many were waiting for.
            self._stopping.wait(self._retry * random.uniform(1, 1.5))
            self._retry = min(max(2 * self._retry, _RETRY_S), _RETRY_MOST_S)

    def _say(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            log.warning("MQTT broker %s: %s (trying again; predictions go on)", self._access.address, reason)

    def _connect(self, client: paho.Client) -> None:
        address = self._access.address
        properties = self._paho.properties.Properties(self._paho.packettypes.PacketTypes.CONNECT)
        properties.MaximumPacketSize = LARGEST
        try:
            client.connect(address.host, address.port, _KEEPALIVE_S, clean_start=True, properties=properties)
        except (OSError, ValueError) as error:
            self._ended = _explained(error, self._access)

    def _talk(self, client: paho.Client) -> None:
        """Until the connection ends, or `stop` has been heeded."""
        answer_by = time.monotonic() + _ANSWER_S
        goodbye_by = 0.0
        self._next_tick = 0.0
        listening = False
        while not self._ended and client.socket() is not None:
            now = time.monotonic()
            if self.connected:
                self._send(client)  # first: a tick may take a millisecond or two
                if now >= self._next_tick:
                    self._next_tick = now + self._tick
                    self._on_tick()
                if not listening and now >= self._deaf_until:
                    listening = True
                    self._listen(client)
            elif now > answer_by:
                self._ended = f"no answer within {_ANSWER_S:.0f} s"
            if self._stopping.is_set():
                goodbye_by = goodbye_by or now + _GOODBYE_S
                if not self.connected or now > goodbye_by or not (self._in_flight or self._states or self._queue):
                    return
            self._exchange(client)

    def _exchange(self, client: paho.Client) -> None:
        """Read and write what can be, or wait for it, for a message to send, or for the next tick."""
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
                else "it hung up without an answer"
                + ("" if self._tls else "; if that port is for TLS, write mqtts:// in place of mqtt://")
            )

    def _send(self, client: paho.Client) -> None:
        # While the socket takes no more, nothing is given to paho, whose own queue has no bound.
        while len(self._in_flight) < self._window and not client.want_write():
            with self._lock:
                if is_state := bool(self._states):
                    message = self._states.pop(next(iter(self._states)))
                elif self._queue:
                    message = self._queue.popleft()
                else:
                    return
            info = client.publish(message.topic, message.payload, qos=1, retain=True)
            self._in_flight[info.mid] = message, is_state

    def _listen(self, client: paho.Client) -> None:
        make = self._paho.subscribeoptions.SubscribeOptions
        which = make.RETAIN_SEND_ON_SUBSCRIBE if self._with_retained else make.RETAIN_DO_NOT_SEND
        options = make(qos=1, noLocal=True, retainHandling=which)
        if self._topics:
            client.subscribe([(topic, options) for topic in self._topics])

    def _hang_up(self, client: paho.Client) -> None:
        self.connected = False
        if client.socket() is not None:
            client.disconnect()  # a will is for those who vanish
            client.loop_write()
        connection: Any = client.socket()
        if connection is not None:
            connection.close()
        with self._lock:
            # States are all said again with the next connection; what it was not known to have got is sent again.
            self._queue.extendleft(message for message, is_state in reversed(self._in_flight.values()) if not is_state)
            self._trim()
        self._in_flight.clear()

    def _trim(self) -> None:
        while len(self._queue) > KEEP:
            self._queue.popleft()
            self.lost += 1

    # -- what paho calls, in this thread too

    def _client(self) -> paho.Client:
        """A new one for each connection: nothing of the old one's state can come along."""
        client = new_client(self._paho.client, self._client_id, self._answered, self._put_out, self._taken)
        client.on_message = lambda _client, _data, message: self._heard(message)
        client.max_inflight_messages_set(_IN_FLIGHT)
        if hasattr(client, "connect_timeout"):
            client.connect_timeout = _CONNECT_S
        if self._access.address.user:
            client.username_pw_set(self._access.address.user, self._access.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)
        return client

    def _answered(self, code: int, text: str, receive_maximum: int) -> None:
        if code:
            self._ended = _refused(code, text)
            return
        self.connected = True
        self._retry = _RETRY_S
        self._window = min(_IN_FLIGHT, receive_maximum)
        if self.reason:
            log.warning("MQTT broker %s is back; messages lost so far: %d", self._access.address, self.lost)
            self.reason = ""
        else:
            log.info("MQTT broker %s: connected as %s", self._access.address, self._client_id)
        self._on_connected()

    def _put_out(self, code: int, text: str) -> None:
        if code and not self._ended:
            self._ended = f"it ended the connection: {text}"

    def _taken(self, number: int, code: int, text: str) -> None:
        message, _ = self._in_flight.pop(number, (None, False))
        if message is None:
            return
        if code < 128:
            self.sent += 1
            return
        self.lost += 1
        if self.lost == 1:
            log.warning("MQTT broker %s refuses %s: %s (said once)", self._access.address, message.topic, text)

    def _heard(self, message: paho.MQTTMessage) -> None:
        now = time.monotonic()
        if now - self._heard_since > 1:
            self._heard_since, self._heard_count = now, 0
        self._heard_count += 1
        if self._flood and self._heard_count > self._flood:
            # Answers to what we send would stand in line behind the flood: a new connection has no such line.
            self._deaf_until = now + DEAF_S
            self._retry = _RETRY_FLOOD_S
            self._ended = f"more than {self._flood} messages a second came in: not listening for {DEAF_S:.0f} s"
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of ours
        self._on_message(topic, bytes(message.payload), bool(message.retain))


def new_client(
    module: Any,
    client_id: str,
    answered: Callable[[int, str, int], None],
    put_out: Callable[[int, str], None],
    taken: Callable[[int, int, str], None],
) -> paho.Client:
    """A client of paho-mqtt 1 or 2, whose callbacks differ, speaking MQTT 5.

    Args:
        module: paho.mqtt.client.
        client_id: of the client.
        answered: called with the broker's reason code, its text, and how many messages may be under way.
        put_out: called with reason code and text when the connection ends.
        taken: called with a message's number, reason code and text when the broker has taken or refused it; paho-mqtt 1
            does not tell the code.
    """

    def on_connect(client: Any, data: Any, flags: Any, code: Any, properties: Any = None) -> None:
        answered(_value(code), str(code), getattr(properties, "ReceiveMaximum", 65535))

    def on_publish(client: Any, data: Any, number: int, code: Any = 0, properties: Any = None) -> None:
        taken(number, _value(code), str(code))

    if hasattr(module, "CallbackAPIVersion"):
        client = module.Client(module.CallbackAPIVersion.VERSION2, client_id, protocol=module.MQTTv5)

        def on_disconnect(client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
            put_out(_value(code) if flags.is_disconnect_packet_from_server else 0, str(code))
    else:
        client = module.Client(client_id, protocol=module.MQTTv5)

        def on_disconnect(client: Any, data: Any, code: Any, properties: Any = None) -> None:  # type: ignore[misc]
            # A plain number is paho's own, of a connection that was lost.
            put_out(0 if isinstance(code, int) else _value(code), str(code))

    client.on_connect, client.on_disconnect, client.on_publish = on_connect, on_disconnect, on_publish
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
        return ssl.create_default_context(cafile=ca)
    except PermissionError as error:
        raise SinkError(f"--mqtt-ca {ca}: no permission to read it", denied=True) from error
    except OSError as error:
        why = "it holds no certificate (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
        raise SinkError(f"--mqtt-ca {ca}: {why}") from error


def _refused(code: int, text: str) -> str:
    if code in (_BAD_PASSWORD, _NOT_AUTHORISED):
        return (
            "user or password refused; the user stands in the address (mqtt://USER@HOST), "
            "the password in CAMAPP_MQTT_PASSWORD or --mqtt-password-file"
        )
    if code == _BAD_VERSION:
        return "it does not speak MQTT 5: mosquitto does from 1.6 on"
    return f"it refused the connection: {text}"


def _explained(error: Exception, access: Access) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not to be trusted ({error.verify_message}); --mqtt-ca names the file of who signed it"
        )
    if isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionResetError) and access.address.tls):
        return "it does not speak TLS at that port; for one without it write mqtt:// in place of mqtts://"
    if isinstance(error, socket.gaierror):
        return f"no machine of the name '{access.address.host}' is found"
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_S:.0f} s"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (connection refused): is the broker running?"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
