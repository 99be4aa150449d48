"""Generates the OpenAPI document of the HTTP interface from the route table in `routes.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from camapp import __version__
from camapp.core.status import State

Schema = dict[str, Any]

NUMBER, TEXT, FLAG, COUNT, OBJECT = ({"type": name} for name in ("number", "string", "boolean", "integer", "object"))
IMAGE: Schema = TEXT | {"format": "binary"}
ERROR, STATUS, PREDICTION = ({"$ref": f"#/components/schemas/{name}"} for name in ("Error", "Status", "Prediction"))


def fields(**properties: Schema) -> Schema:
    """Return the schema of an object."""
    return OBJECT | {"properties": properties}


def array(items: Schema, **bounds: int) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items, **bounds}


def query(name: str, schema: Schema, description: str) -> Schema:
    """Return an optional parameter of the query."""
    return {"name": name, "in": "query", "schema": schema, "description": description}


_NULL = {"type": "null"}
_COUNTS, _NUMBERS = ({**OBJECT, "additionalProperties": values} for values in (COUNT, NUMBER))
_FRACTION = NUMBER | {"minimum": 0, "maximum": 1}
ROI: Schema = {
    "description": "x, y, width, height as fractions of the image; null is the whole image",
    "oneOf": [array(_FRACTION, minItems=4, maxItems=4), _NULL],
}
PLACE: Schema = fields(
    name=TEXT | {"description": "letters, digits, - and _"},
    points=array(array(_FRACTION, minItems=2, maxItems=2)) | {"description": "x, y as fractions of the image"},
)
POINTS: Schema = {
    "description": "corners of a zone, or start and end of a line, as fractions of the image; null deletes it",
    "oneOf": [array(array(_FRACTION, minItems=2, maxItems=2)), _NULL],
}
_SCHEMAS = {
    "Error": fields(error=TEXT),
    "Status": fields(
        **dict.fromkeys(("camera", "reason", "task", "model"), TEXT),
        **dict.fromkeys(("labels", "models"), array(TEXT)),
        **dict.fromkeys(("age_s", "uptime_s"), NUMBER),
        state=TEXT | {"enum": [state.value for state in State]},
        figures=OBJECT | {"description": "rates, drops, workers, health: as drawn on the image"},
        balance=fields(
            **dict.fromkeys(("captured", "predicted", "in_flight", "sensor_missed"), COUNT),
            **dict.fromkeys(("dropped", "failed"), _COUNTS),
        ),
        latency_ms={**OBJECT, "additionalProperties": fields(p50=NUMBER, p95=NUMBER, p99=NUMBER)},
        prediction={"oneOf": [OBJECT, _NULL]},
        size={"oneOf": [array(COUNT), _NULL]},
        roi=ROI,
        **dict.fromkeys(("zones", "lines"), array(PLACE)),
        hud=FLAG,
        watchers=COUNT,
    ),
    "Box": fields(
        label=TEXT,
        **dict.fromkeys(("score", "angle"), NUMBER),
        track=COUNT | {"description": "number of the object over several images"},
        xyxy=array(NUMBER, minItems=4, maxItems=4) | {"description": "left, top, right, bottom; pixels"},
        points=array(array(NUMBER, minItems=3, maxItems=3)) | {"description": "x, y and score of each key point"},
        outlines=array(array(NUMBER)) | {"description": "polygons of the mask: x, y, x, y, ..."},
    ),
    "Zone": fields(name=TEXT, dwell_s=NUMBER, **dict.fromkeys(("inside", "entered", "left"), _COUNTS)),
    "CountingLine": fields(name=TEXT, **{"in": _COUNTS, "out": _COUNTS}),
    "Prediction": fields(
        **dict.fromkeys(("seq", "t_mono_ns"), COUNT),
        **dict.fromkeys(("model", "task", "label", "raw_label"), TEXT),
        **dict.fromkeys(("score", "raw_score"), NUMBER),
        boxes=array({"$ref": "#/components/schemas/Box"}),
        lines=array(OBJECT),
        counts=_COUNTS | {"description": "objects by label"},
        summary=TEXT | {"description": "what is in sight: the label, or the number of objects by label"},
        zones=array({"$ref": "#/components/schemas/Zone"}),
        counting_lines=array({"$ref": "#/components/schemas/CountingLine"}),
        **dict.fromkeys(("values", "latency_ms"), _NUMBERS),
        time=TEXT | {"format": "date-time"},
        top=array({"type": "array"}),
        truth=OBJECT | {"description": "if the source provides it"},
    ),
}
_CLIENT = TEXT | {"description": "id of the sender; it returns as `by` in the notice that all visitors get"}
_IN_QUERY = query("camera", TEXT, "name of the camera; the first one by default")
_IN_PATH: Schema = {"name": "camera", "in": "path", "required": True, "schema": TEXT, "description": "its name"}
_ERRORS = {
    401: "the token is missing",
    403: "the request comes from another site's page",
    404: "no such camera",
    421: "the Host header is not a name of this machine",
}
_POST_ERRORS = {
    400: "the body is not a JSON object",
    408: "the body did not arrive in time",
    409: "the command cannot be run; the message gives the reason",
    413: "the body is too large",
    415: "the content type is not application/json",
    504: "the run does not answer",
}


@dataclass(frozen=True)
class Endpoint:
    """Describes one entry of the route table.

    Attributes:
        handler: name of the method that answers.
        answer: schema of what a successful request returns.
        parameters: of the query.
        errors: descriptions of further errors, by status code.
        body: properties of the JSON object of a POST; None for a GET.
        optional: those of them that are not required.
        of_camera: whether a query may name the camera, and the same is served below /cameras/{camera}.
    """

    path: str
    handler: str
    summary: str
    answer: Schema
    media_type: str = "application/json"
    parameters: tuple[Schema, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    body: Schema | None = None
    optional: tuple[str, ...] = ()
    of_camera: bool = True

    @property
    def method(self) -> str:
        """Return GET or POST."""
        return "GET" if self.body is None else "POST"

    @property
    def paths(self) -> list[str]:
        """Return all paths that it is served at."""
        return [self.path, f"/cameras/{{camera}}{self.path}"] if self.of_camera else [self.path]


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of these endpoints."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "camapp",
            "version": __version__,
            "description": "A camera, and what a CNN sees in it. The WebSocket /live sends predictions and statistics.",
        },
        # Relative to the document, as it may be served below a proxy's path.
        "servers": [{"url": "."}],
        "security": [{"token": []}, {"password": []}, {"cookie": []}, {}],
        "paths": {path: {each.method.lower(): _operation(each, path)} for each in endpoints for path in each.paths},
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic", "description": "the token is the password"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "camapp-PORT"},
            },
            "schemas": _SCHEMAS,
        },
    }


def _operation(endpoint: Endpoint, path: str) -> Schema:
    camera = [_IN_PATH] if "{camera}" in path else [_IN_QUERY] if endpoint.of_camera else []
    errors = {**_ERRORS, **endpoint.errors, **({} if endpoint.body is None else _POST_ERRORS)}
    operation = {
        "summary": endpoint.summary,
        "parameters": [*camera, *endpoint.parameters],
        "responses": {"200": {"description": "success", "content": {endpoint.media_type: {"schema": endpoint.answer}}}}
        | {str(code): {"description": text, "content": _json(ERROR)} for code, text in errors.items()},
    }
    if endpoint.body is not None:
        names = [name for name in endpoint.body if name not in endpoint.optional]
        required = {"required": names} if names else {}
        content = _json(fields(**endpoint.body, client=_CLIENT) | required)
        operation["requestBody"] = {"required": bool(endpoint.body), "content": content}
    return operation


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
