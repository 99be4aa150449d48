"""A real mosquitto on a free port, which tests start, kill and restart."""

import shutil
import socket
import subprocess
import threading
import time

import pytest

PROGRAM = shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")


def needs_mosquitto():
    """Skip the test if mosquitto or paho-mqtt is missing."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed (sudo apt install mosquitto)")
    pytest.importorskip("paho.mqtt.client", reason="the extra 'mqtt' is not installed")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Mosquitto:
    """A broker.

    Args:
        folder: for its files.
        user: name and password that it requires; None requires none.
        tls: whether it uses TLS, with a certificate for localhost by a new authority, `ca`.
        lines: more of its configuration.
    """

    def __init__(self, folder, user=None, tls=False, lines=()):
        needs_mosquitto()
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.ca = folder / "ca.pem"
        self._folder = folder
        self._process = None
        config = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {'false' if user else 'true'}", *lines]
        if user:
            name, password = user
            secrets = folder / "passwords"
            program = shutil.which("mosquitto_passwd") or pytest.skip("mosquitto_passwd is not installed")
            subprocess.run([program, "-b", "-c", secrets, name, password], check=True, capture_output=True)
            config.append(f"password_file {secrets}")
        if tls:
            make_certificates(folder)
            config += [f"cafile {self.ca}", f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"]
        # As root, mosquitto would change to its own user, which cannot read tmp_path.
        (folder / "mosquitto.conf").write_text("\n".join(["user root", *config]) + "\n")

    def start(self):
        """Start it, and wait until it accepts connections."""
        log = (self._folder / "mosquitto.log").open("ab")
        self._process = subprocess.Popen(
            [PROGRAM, "-c", self._folder / "mosquitto.conf", "-v"], stdout=log, stderr=subprocess.STDOUT
        )
        log.close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise RuntimeError((self._folder / "mosquitto.log").read_text())

    def kill(self):
        """Kill it, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)
            self._process = None

    def suspend(self, signal):
        """Send it a signal: SIGSTOP keeps its connections open but answers nothing."""
        self._process.send_signal(signal)

    @property
    def uri(self):
        return f"mqtt://localhost:{self.port}"


def make_certificates(folder, name="localhost"):
    """Make an authority (ca.pem) and a server certificate of it (server.pem, server.key)."""
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")

    def run(*arguments):
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    run("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={name}")
    (folder / "san").write_text(f"subjectAltName=DNS:{name}")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san", "-days", "2")
    run("x509", "-req", "-in", "server.csr", *signed, "-out", "server.pem")


class Listener:
    """A plain client of the broker that keeps all messages, retained ones too."""

    def __init__(self, broker, topic="#", user=None, password=None):
        import paho.mqtt.client as mqtt

        if hasattr(mqtt, "CallbackAPIVersion"):
            self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        else:
            self.client = mqtt.Client()
        self.messages = []
        if user:
            self.client.username_pw_set(user, password)
        self.client.on_message = lambda client, data, message: self.messages.append(
            (message.topic, message.payload, message.retain)
        )
        subscribed = threading.Event()
        self.client.on_connect = lambda client, *rest: client.subscribe(topic, 1)
        self.client.on_subscribe = lambda *rest: subscribed.set()
        self.client.connect("localhost", broker.port)
        self.client.loop_start()
        # The broker keeps nothing for a subscription to come.
        if not subscribed.wait(10):
            raise RuntimeError(f"no subscription to {topic} within 10 s")

    def payloads(self, topic):
        return [payload for found, payload, _ in self.messages if found == topic]

    def wait_for(self, what, seconds=30):
        """Wait until `what()` is true; return its value."""
        return wait_for(what, seconds, lambda: f"received only {[topic for topic, _, _ in self.messages]}")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def wait_for(what, seconds=30, otherwise=lambda: "it did not happen"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.01)
    raise AssertionError(otherwise())
