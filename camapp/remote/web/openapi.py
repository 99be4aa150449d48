"""The API as an OpenAPI document, kept by hand beside `routes.py`; a test holds the two against each other."""

from __future__ import annotations

from typing import Any

from camapp import __version__

_Json = dict[str, Any]


def _answer(text: str, schema: _Json | None = None, kind: str = "application/json") -> _Json:
    return {"description": text} | ({"content": {kind: {"schema": schema}}} if schema is not None else {})


def _ref(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: _Json) -> _Json:
    return {"type": "object", "properties": properties}


_NUMBER, _TEXT, _FLAG, _COUNT = {"type": "number"}, {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
_ROI: _Json = {
    "description": "x, y, width, height as fractions of the image; null is all of it",
    "oneOf": [
        {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 4, "maxItems": 4},
        {"type": "null"},
    ],
}
_COUNTS: _Json = {"type": "object", "additionalProperties": _COUNT}
_CAMERA: _Json = {"name": "camera", "in": "query", "schema": _TEXT, "description": "its name; the first if left out"}
_IN_PATH: _Json = {"name": "camera", "in": "path", "required": True, "schema": _TEXT, "description": "its name"}
_SINCE: _Json = {
    "name": "since",
    "in": "query",
    "schema": {"type": "integer", "default": -1},
    "description": "only frames after this number; the `next` of the last answer",
}
_LIMIT: _Json = {"name": "limit", "in": "query", "schema": _COUNT, "description": "of more than that, the newest"}
_ERRORS: _Json = {
    "401": _answer("the token is needed", _ref("Error")),
    "403": _answer("asked by another site's page", _ref("Error")),
    "404": _answer("no such camera", _ref("Error")),
    "421": _answer("a Host header that this machine is not known by", _ref("Error")),
}


def _get(summary: str, ok: _Json, *parameters: _Json, **errors: _Json) -> _Json:
    return {"summary": summary, "parameters": list(parameters), "responses": {"200": ok, **_ERRORS, **errors}}


def _post(summary: str, body: _Json, ok: _Json) -> _Json:
    client = {"client": {"type": "string", "description": "comes back as `by` in the notice that all visitors get"}}
    properties = {**body, **client}
    required = list(body)
    schema: _Json = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    return {
        "summary": summary,
        "parameters": [],
        "requestBody": {"required": bool(body), "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": _answer("done", ok),
            **_ERRORS,
            "400": _answer("no JSON object", _ref("Error")),
            "408": _answer("the body did not arrive in time", _ref("Error")),
            "409": _answer("it cannot be done; the message says why", _ref("Error")),
            "413": _answer("the body is too large", _ref("Error")),
            "415": _answer("not application/json", _ref("Error")),
            "504": _answer("the run does not answer", _ref("Error")),
        },
    }


_OF_A_CAMERA: _Json = {
    "/snapshot.jpg": {
        "get": _get(
            "The next image that is drawn",
            _answer("an image; its frame's number is in X-Seq", {"type": "string", "format": "binary"}, "image/jpeg"),
            **{"503": _answer("there is no image now", _ref("Error"))},
        )
    },
    "/stream.mjpg": {
        "get": _get(
            "Images as they are drawn; a slow visitor skips some",
            _answer("one part an image", {"type": "string", "format": "binary"}, "multipart/x-mixed-replace"),
            **{"503": _answer("too many are watching", _ref("Error"))},
        )
    },
    "/api/predictions": {
        "get": _get(
            "Predictions of about the last minute, oldest first",
            _answer(
                "predictions, and what to ask with next",
                _object(camera=_TEXT, predictions={"type": "array", "items": _ref("Prediction")}, next=_COUNT),
            ),
            _SINCE,
            _LIMIT,
            **{"400": _answer("since or limit is no number", _ref("Error"))},
        )
    },
    "/api/pause": {"post": _post("Hold the image and the predictions", {}, _object(paused=_FLAG))},
    "/api/resume": {"post": _post("Go on", {}, _object(paused=_FLAG))},
    "/api/snapshot": {"post": _post("Save the next image on the device", {}, _object(folder=_TEXT))},
    "/api/model": {"post": _post("Run another of the models offered", {"model": _TEXT}, _object(model=_TEXT))},
    "/api/roi": {
        "post": _post(
            "Look only at this part of the image, now and after the next start",
            {"roi": _ROI},
            _object(roi=_ROI, kept=_FLAG, why={"type": "string", "description": "why it is not kept"}),
        )
    },
    "/api/hud": {"post": _post("Draw the figures on the image, or do not", {"shown": _FLAG}, _object(shown=_FLAG))},
}

_STATUS: _Json = _object(
    camera=_TEXT,
    state={"type": "string", "enum": ["starting", "running", "paused", "no signal", "ended"]},
    reason=_TEXT,
    figures={"type": "object", "description": "rates, drops, workers, health: as on the image"},
    balance=_object(
        captured=_COUNT, predicted=_COUNT, dropped=_COUNTS, failed=_COUNTS, in_flight=_COUNT, sensor_missed=_COUNT
    ),
    latency_ms={"type": "object", "additionalProperties": _object(p50=_NUMBER, p95=_NUMBER, p99=_NUMBER)},
    prediction={"oneOf": [{"type": "object"}, {"type": "null"}]},
    age_s=_NUMBER,
    task=_TEXT,
    labels={"type": "array", "items": _TEXT},
    size={"oneOf": [{"type": "array", "items": _COUNT}, {"type": "null"}]},
    roi=_ROI,
    uptime_s=_NUMBER,
    model=_TEXT,
    models={"type": "array", "items": _TEXT},
    hud=_FLAG,
    watchers=_COUNT,
)
_PREDICTION: _Json = _object(
    seq=_COUNT,
    time={"type": "string", "format": "date-time"},
    t_mono_ns=_COUNT,
    model=_TEXT,
    task=_TEXT,
    label=_TEXT,
    score=_NUMBER,
    raw_label=_TEXT,
    raw_score=_NUMBER,
    top={"type": "array", "items": {"type": "array"}},
    boxes={"type": "array", "items": {"type": "object"}},
    lines={"type": "array", "items": {"type": "object"}},
    values={"type": "object", "additionalProperties": _NUMBER},
    latency_ms={"type": "object", "additionalProperties": _NUMBER},
    truth={"type": "object", "description": "where the source knows it"},
)


def _with(parameter: _Json, item: _Json) -> _Json:
    return {
        method: operation | {"parameters": [parameter, *operation["parameters"]]} for method, operation in item.items()
    }


DOCUMENT: _Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "camapp",
        "version": __version__,
        "description": "A camera, and what a CNN sees in it. A WebSocket at /live tells predictions and statistics.",
    },
    "security": [{"token": []}, {"cookie": []}, {}],
    "paths": {
        "/status": {
            "get": _get(
                "All cameras, and the server itself",
                _answer("now", _object(cameras={"type": "array", "items": _ref("Status")}, web={"type": "object"})),
            )
        },
        "/metrics": {
            "get": _get(
                "For Prometheus",
                _answer("text format 0.0.4", _TEXT, "text/plain"),
                **{"501": _answer("prometheus-client is missing", _ref("Error"))},
            )
        },
        "/cameras/{camera}/status": {"get": _get("One camera", _answer("now", _ref("Status")), _IN_PATH)},
        **{path: _with(_CAMERA, item) for path, item in _OF_A_CAMERA.items()},
        **{f"/cameras/{{camera}}{path}": _with(_IN_PATH, item) for path, item in _OF_A_CAMERA.items()},
    },
    "components": {
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "camapp-PORT"},
        },
        "schemas": {"Error": _object(error=_TEXT), "Status": _STATUS, "Prediction": _PREDICTION},
    },
}
