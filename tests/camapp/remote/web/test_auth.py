"""Access checks and routes, without a run or a network: the test sends the run's messages."""

import asyncio
import base64
import json

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from camapp.remote.web.auth import HostCheck, TokenAuth
from camapp.remote.web.connection_limits import ConnectionLimiter
from camapp.remote.web.routes import DOCUMENT, ENDPOINTS, build
from camapp.remote.web.state import ServerState

TOKEN = "t" * 32
HELLO = {"cameras": [{"name": "porch", "models": ["mnist", "lenet"]}, {"name": "yard", "models": ["mnist"]}]}


class Run:
    """The run's end of the channel: answers commands at once."""

    def __init__(self):
        self.commands = []
        self.refuses = ""
        self.accepts = True
        self.state = ServerState(HELLO, self.send)

    def send(self, message):
        if not self.accepts:
            return False
        if message["type"] == "order":
            self.commands.append((message["camera"], message["order"], message["body"]))
            body = {"text": "up 1\n"} if message["order"] == "metrics" else {"done": True}
            outcome = {"error": self.refuses} if self.refuses else {"body": body}
            # The answer arrives when the server waits for it.
            asyncio.get_running_loop().call_soon(self.state.receive, {"type": "answer", "id": message["id"], **outcome})
        return True

    def client(self, token="", host="localhost", **options):
        auth = TokenAuth(token, 8080, **options)
        app = build(self.state, auth, HostCheck(["camera.example"]), ConnectionLimiter())
        return TestClient(app, base_url=f"http://{host}", follow_redirects=False)


@pytest.fixture
def run():
    return Run()


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1234", "127.0.0.1:8080", "[::1]:80", "192.168.7.7", "camera.example"]
)
def test_names_and_addresses_of_this_machine_are_allowed(run, host):
    assert run.client().get("/status", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "", "localhost@evil", "a b", "127.0.0.1.nip.io", "[::1", "localhost:0"],
)
def test_any_other_host_header_is_refused(run, host):
    answer = run.client().get("/status", headers={"host": host})
    assert answer.status_code == 421
    assert run.state.refused == {"host": 1}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_sites_page_cannot_send_commands(run, headers):
    client = run.client()
    assert client.post("/api/pause", json={}, headers=headers).status_code == 403
    assert client.get("/snapshot.jpg", headers=headers).status_code == 403
    assert run.commands == []


def test_a_command_must_be_json(run):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert run.client().post("/api/pause", content="{}", headers={"content-type": kind}).status_code == 415
    assert run.commands == []


def test_the_own_page_and_programs_can_send_commands(run):
    client = run.client()
    own = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert client.post("/api/pause", json={}, headers=own).status_code == 200
    assert client.post("/cameras/yard/api/resume", json={"client": "x"}).status_code == 200
    assert run.commands == [("porch", "pause", {}), ("yard", "resume", {"client": "x"})]


def test_a_link_from_another_site_can_be_followed(run):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert run.client().get("/", headers=link).status_code == 200
    frame = link | {"sec-fetch-dest": "iframe"}
    assert run.client().get("/", headers=frame).status_code == 403


def test_without_the_token_only_the_login_form_is_served(run):
    client = run.client(TOKEN)
    assert client.get("/").headers["location"] == "login"
    assert client.get("/login").status_code == 200
    for path in (
        "/status",
        "/metrics",
        "/openapi.json",
        "/snapshot.jpg",
        "/stream.mjpg",
        "/page.js",
        "/api/predictions",
    ):
        assert client.get(path).status_code == 401, path
    for endpoint in ENDPOINTS:
        assert client.request(endpoint.method, endpoint.path, json={}).status_code == 401, endpoint.path
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("ws://localhost/live"):
        pass
    assert refused.value.code == 1008
    assert run.commands == []


def basic(password, user="x"):
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_the_token_is_accepted_as_the_password_of_basic_and_never_in_the_address(run):
    client = run.client(TOKEN)
    for user in ("x", "", "pi@home"):
        assert client.get("/status", headers=basic(TOKEN, user)).status_code == 200
    assert client.get("/stream.mjpg", headers=basic("wrong")).status_code == 401
    for header in ("Basic", "Basic !", "Basic eA==", "Basic /////w==", f"Basic {TOKEN}", f"Digest {TOKEN}"):
        assert client.get("/status", headers={"authorization": header}).status_code == 401
    for name in ("token", "access_token", "auth", "password"):
        assert client.get(f"/status?{name}={TOKEN}").status_code == 401


def test_wrong_passwords_count_as_tries(run):
    client = run.client(TOKEN)
    codes = [client.get("/status", headers=basic("wrong")).status_code for _ in range(7)]
    assert codes == [401] * 4 + [429] * 3
    assert client.get("/status", headers=basic(TOKEN)).status_code == 429


def test_programs_are_asked_for_a_password_and_browsers_are_not(run):
    def challenges(agent):
        return run.client(TOKEN).get("/status", headers={"user-agent": agent}).headers.get_list("www-authenticate")

    assert [text.partition(" ")[0] for text in challenges("Lavf/60.3.100")] == ["Basic", "Bearer"]
    assert challenges("Mozilla/5.0 (X11; Linux aarch64) Chrome/140.0") == ["Bearer"]


def test_a_proxy_that_names_the_host_it_stands_for_is_no_foreign_page(run):
    headers = {"origin": "https://home.example", "host": "127.0.0.1:8080"}
    assert run.client().post("/api/pause", json={}, headers=headers).status_code == 403
    behind = headers | {"x-forwarded-host": "home.example"}
    assert run.client().post("/api/pause", json={}, headers=behind).status_code == 200
    assert (
        run.client().get("/status", headers={"host": "evil.example", "x-forwarded-host": "localhost"}).status_code
        == 421
    )


def test_the_token_is_accepted_by_form_and_by_header(run):
    client = run.client(TOKEN)
    assert client.get("/status", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.post("/login", data={"token": "wrong"}).status_code == 403
    answer = client.post("/login", data={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/status").status_code == 200
    assert client.post("/logout").status_code == 303
    assert client.get("/status").status_code == 401


def test_wrong_tokens_are_limited_in_number(run):
    now = [0.0]
    client = run.client(TOKEN, clock=lambda: now[0])
    codes = [client.post("/login", data={"token": f"guess{number}"}).status_code for number in range(8)]
    assert codes == [403] * 5 + [429] * 3
    assert client.get("/status", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 429
    now[0] = 61.0
    assert client.get("/status", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("cookie", ["camapp-8080=", "camapp-8080=%00", "camapp-8080=" + TOKEN, ";;;=", "a" * 5000])
def test_a_forged_cookie_is_refused(run, cookie):
    assert run.client(TOKEN).get("/status", headers={"cookie": cookie}).status_code == 401


def test_every_answer_has_security_headers(run):
    client = run.client()
    for path in ("/", "/status", "/page.js", "/nowhere", "/login"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert client.get("/", headers={"host": "evil.example"}).headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("body", ["{", "[]", "3", '"x"', "[" * 5000, "\xff"])
def test_a_body_that_is_not_an_object_is_refused(run, body):
    answer = run.client().post("/api/roi", content=body.encode("latin-1"), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert run.commands == []


def test_a_large_body_is_refused(run):
    client = run.client()
    assert client.post("/api/roi", json={"x": "y" * 20000}).status_code == 413

    def drip():
        for _ in range(40):
            yield b" " * 1000

    assert client.post("/api/roi", content=drip(), headers={"content-type": "application/json"}).status_code == 413
    assert run.commands == []


def test_a_refusal_of_the_run_is_answered(run):
    run.refuses = "no model 'x'; there are mnist"
    answer = run.client().post("/api/model", json={"model": "x"})
    assert (answer.status_code, answer.json()) == (409, {"error": run.refuses})
    run.accepts = False
    assert run.client().post("/api/model", json={"model": "x"}).status_code == 504


def test_an_internal_error_is_logged_once_and_fails_one_answer(run, monkeypatch, caplog):
    def fails(*_):
        raise LookupError("a fault")

    monkeypatch.setattr("camapp.remote.web.state.CameraState.since", fails)
    client = run.client()
    assert [client.get("/api/predictions").status_code for _ in range(3)] == [500] * 3
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "the page failed at '/api/predictions' (logged once per kind)"
    ]
    assert client.get("/status").status_code == 200


def test_predictions_after_a_frame_are_returned(run):
    for seq in range(10):
        run.state.receive({"type": "prediction", "camera": 1, "record": {"seq": seq, "label": str(seq)}})
    client = run.client()
    found = client.get("/cameras/yard/api/predictions?since=6").json()
    assert [record["seq"] for record in found["predictions"]] == [7, 8, 9]
    assert found["next"] == 9
    assert client.get("/api/predictions?camera=yard&limit=1").json()["predictions"][0]["seq"] == 9
    assert client.get("/api/predictions").json()["predictions"] == []
    assert client.get("/api/predictions?since=x").status_code == 400
    assert client.get("/cameras/nix/api/predictions").status_code == 404


def test_predictions_are_bounded(run):
    for seq in range(5000):
        run.state.receive({"type": "prediction", "camera": 0, "record": {"seq": seq}})
    assert len(run.client().get("/api/predictions").json()["predictions"]) == 2000


def test_metrics_are_served(run):
    assert run.client().get("/metrics").text == "up 1\n"


def test_the_socket_sends_hello_and_the_status(run):
    run.state.receive({"type": "status", "camera": 0, "record": {"state": "running", "labels": ["a"] * 1000}})
    with run.client().websocket_connect("ws://localhost/live") as socket:
        first = json.loads(socket.receive_text())
        assert [camera["name"] for camera in first["hello"]["cameras"]] == ["porch", "yard"]
        assert first["status"]["porch"]["state"] == "running"
        assert "labels" not in first["status"]["porch"]


@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"host": "evil.example"}])
def test_another_sites_page_cannot_open_the_socket(run, headers):
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        run.client().websocket_connect("ws://localhost/live", headers=headers),
    ):
        pass
    assert refused.value.code == 1008


def test_the_openapi_document_describes_all_routes(run):
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    document = run.client().get("/openapi.json").json()
    validator.validate(document)
    assert document == DOCUMENT
    app = run.client().app.app
    served = {
        (route.path, method.lower())
        for route in app.routes
        for method in (getattr(route, "methods", None) or (["GET"] if "stream" in route.path else []))
        if method != "HEAD"
    }
    pages = {"/", "/page.css", "/page.js", "/icon.svg", "/login", "/logout", "/openapi.json"}
    described = {(path, method) for path, item in document["paths"].items() for method in item}
    assert {place for place in served if place[0] not in pages} == described
