"""What the OpenAPI page says of `/detect` and `/evaluate`; parameters, formats and figures come from the code."""

from collections.abc import Iterable
from typing import Any

from lynceus.catalogue import COLUMNS, FORMATS
from lynceus.figures import Evaluation
from service.errors import MEANINGS, PROBLEM
from service.formats import VOTABLE
from service.question import EvaluateQuestion, Question, openapi_parameters

DESCRIPTION = """POST a telescope frame, get every astronomical source in it back.

Positions: `x, y` are 0-based pixel *centres*: the first pixel is at (0, 0). A `box` is `x_min, y_min, x_max, y_max` in
*edge* coordinates: the first pixel covers [0, 1) x [0, 1). So the centre of a box is half a pixel more than `x, y`.
VOTable, FITS, LDAC, SExtractor and DS9 count 1-based, as is the custom there: `X_IMAGE` is `x + 1`.

`ra, dec` are ICRS degrees, null without a usable WCS. Parameter names may be in any case.

Every answer carries `X-Request-ID`: the request's own, where it is up to 64 letters, digits and `_ . : -`.
"""

_FILE = {"type": "string", "contentMediaType": "application/fits"}
_FRAME_PARTS = {
    "frame": _FILE | {"description": "The frame."},
    "mask": _FILE | {"description": "FITS image of the frame's shape; what is not 0 is bad."},
    "weight": _FILE | {"description": "FITS image of the frame's shape; what is not above 0 is bad."},
}
_TABLE = {"type": "string", "contentMediaType": "application/octet-stream"}
_TABLE_FORMATS = "SExtractor ASCII_HEAD, FITS_LDAC, FITS table, VOTable, ECSV, CSV or JSON; plain or .gz"
_EVALUATE_BODY = {
    "required": True,
    "description": "A frame and the catalogue of its sources.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["frame", "catalogue"],
                "additionalProperties": False,
                "properties": _FRAME_PARTS
                | {
                    "catalogue": _TABLE | {"description": f"What is there: {_TABLE_FORMATS}."},
                    "detections": _TABLE | {"description": "Another tool's list, scored instead of the version's."},
                },
            }
        }
    },
}
_BODY = {
    "required": True,
    "description": "A FITS file, plain, .gz, .bz2 or tile-compressed.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["frame"],
                "additionalProperties": False,
                "properties": _FRAME_PARTS,
            }
        },
        "application/fits": {"schema": _FILE},
        "application/octet-stream": {"schema": _FILE},
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable; for programs."},
    },
}
_TYPES = {"id": "integer", "flags": "integer", "class": "string"}
_BOX = {
    "type": "array",
    "description": "`x_min, y_min, x_max, y_max` in edge coordinates: half a pixel more than `x, y`.",
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
}
_ROW = {
    column.name: {"type": _TYPES.get(column.name, ["number", "null"]), "description": column.described("array")}
    for column in COLUMNS
    if column.pixel != "edge"
}
_DETECTION = {"type": "object", "properties": _ROW | {"box": _BOX}}
_ANSWER = {
    "type": "object",
    "required": ["schema_version"],
    "properties": {
        "schema_version": {"type": "string"},
        "frame": {"type": "object"},
        "model": {"type": "object"},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "timing_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "count": {"type": "integer"},
        "overflow": {"type": "boolean", "description": "Whether there were more than `max_detections`."},
        "detections": {"type": "array", "items": _DETECTION},
        "frames": {"type": "array", "description": "With several HDUs: all but `schema_version`, a frame each."},
    },
}


def _bodies() -> dict[str, Any]:
    bodies: dict[str, Any] = {one.media_type.partition(";")[0]: {} for one in FORMATS.values()}
    return bodies | {"application/json": {"schema": _ANSWER}}


_SECONDS = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_HEADERS = {401: {"WWW-Authenticate": {"schema": {"type": "string"}}}, 429: _SECONDS, 503: _SECONDS}


def refusals(statuses: Iterable[int] = MEANINGS) -> dict[int | str, dict[str, Any]]:
    """What an answer with one of these statuses is, as FastAPI takes it."""
    content = {PROBLEM: {"schema": _PROBLEM}, VOTABLE: {}}
    return {
        status: {"description": MEANINGS[status], "content": content}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in statuses
    }


def _answers(what: str, bodies: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": what, "content": bodies}} | refusals()


DETECT: dict[str, Any] = {
    "summary": "Find the sources in a frame",
    "responses": _answers("The sources.", _bodies()),
    "openapi_extra": {"parameters": openapi_parameters(Question), "requestBody": _BODY},
}
"""Of the route, as FastAPI takes it."""


def _without_references(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of pydantic's with its definitions put in their places: references would count from our root."""
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolved(definitions[value["$ref"].rpartition("/")[2]])
        return _without_tuples({key: resolved(one) for key, one in value.items()})

    return {key: resolved(value) for key, value in schema.items()}


def _without_tuples(schema: dict[str, Any]) -> dict[str, Any]:
    """A tuple of equal things as a list of a fixed length, which more tools understand."""
    kinds = schema.pop("prefixItems", [])
    assert all(kind == kinds[0] for kind in kinds)
    return schema | ({"items": kinds[0]} if kinds else {})


_FIGURES = {
    "type": "object",
    "required": ["schema_version", "evaluation"],
    "properties": {
        "schema_version": {"type": "string"},
        "frame": {"type": "object"},
        "model": {"type": "object"},
        "evaluation": _without_references(Evaluation.model_json_schema()),
        "warnings": {"type": "array", "items": {"type": "string"}},
        "timing_ms": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}
EVALUATE: dict[str, Any] = {
    "summary": "Score a version, or another tool's list, against a catalogue",
    "responses": _answers("The figures.", {"application/json": {"schema": _FIGURES}, "text/html": {}}),
    "openapi_extra": {"parameters": openapi_parameters(EvaluateQuestion), "requestBody": _EVALUATE_BODY},
}
