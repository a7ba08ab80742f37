"""Errors to HTTP: the only place that knows which status an error has."""

from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lynceus.catalogue import write_error_votable
from lynceus.errors import CatalogueError, FormatError, FrameError, LynceusError, NotFitsError, TooLargeError
from service.formats import VOTABLE, wants_votable
from service.refusals import (
    BadParameterError,
    ClientGoneError,
    DeadlineError,
    OverloadedError,
    RateLimitedError,
    SlowUploadError,
    UnauthorizedError,
    UnknownModelError,
)

PROBLEM = "application/problem+json"
CHALLENGE = 'Bearer realm="lynceus"'  # RFC 6750
CLIENT_GONE = 499  # nginx's; nobody reads it but the metrics
STATUSES: dict[type[LynceusError], int] = {
    BadParameterError: 400,
    UnauthorizedError: 401,
    UnknownModelError: 404,
    FormatError: 406,
    SlowUploadError: 408,
    TooLargeError: 413,
    NotFitsError: 415,
    FrameError: 422,
    CatalogueError: 422,
    ClientGoneError: CLIENT_GONE,
    RateLimitedError: 429,
    OverloadedError: 503,
    DeadlineError: 504,
}
MEANINGS = {
    400: "A parameter or part of the request makes no sense",
    401: "No API key, or an unknown one, where the server asks for keys",
    404: "No such version or track",
    406: "No such format",
    408: "The upload was too slow",
    413: "The upload, or what is in it, passes a limit",
    415: "Not FITS",
    422: "FITS, but no usable frame; or a catalogue that cannot be read or does not fit the frame",
    429: "The API key asks too often; see Retry-After",
    500: "The server failed",
    503: "No room now, in the queue, in memory or on disk, or no time for it; see Retry-After",
    504: "The deadline passed",
}
"""What each status means, for the OpenAPI page."""


def status_of(error: LynceusError) -> int:
    """The HTTP status of an error; 500 for what is not the caller's doing."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def add_error_handlers(app: FastAPI) -> None:
    """Let every error that an app raises, its framework's own included, leave as a problem or an error VOTable."""

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, LynceusError)
        return problem(request, status_of(error), error.code, str(error), _headers(error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        detail = f"{phrase}: {request.method} {request.url.path[:100]}"
        headers = dict(error.headers or {}) | (_allowed(app, request) if error.status_code == 405 else {})
        return problem(request, error.status_code, phrase.lower().replace(" ", "_"), detail, headers)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(request, 400, BadParameterError.code, "; ".join(str(one["msg"]) for one in error.errors()))

    app.add_exception_handler(LynceusError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)


def problem(request: Request, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error as RFC 9457 has it, or as an error VOTable where VOTable was asked for."""
    request.scope.setdefault("state", {})["error_code"] = code  # for the metrics
    if wants_votable(request):
        return Response(write_error_votable(detail, code), status, headers, VOTABLE)
    body = {"type": "about:blank", "title": _title(status), "status": status, "detail": detail, "code": code}
    return Response(orjson.dumps(body), status, headers, PROBLEM)


def _allowed(app: FastAPI, request: Request) -> dict[str, str]:
    """All methods of a path: the framework names those of its first route alone."""
    route = getattr(request.scope.get("route"), "path", "")
    methods = app.openapi()["paths"].get(route, {})
    return {"Allow": ", ".join(sorted(map(str.upper, methods)))} if methods else {}


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request"


def _headers(error: LynceusError) -> dict[str, str]:
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": CHALLENGE + (', error="invalid_token"' if error.presented else "")}
    if isinstance(error, OverloadedError | RateLimitedError):
        return {"Retry-After": str(max(1, round(error.retry_after + 0.5)))}
    if isinstance(error, SlowUploadError):
        return {"Connection": "close"}  # the rest of the upload must not be waited for
    return {}
