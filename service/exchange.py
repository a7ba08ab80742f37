"""One request and its answer, seen from outside: what goes in and out is counted on its way."""

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from service.context import Journey

REQUEST_ID = "X-Request-ID"
SAFE_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
UNKNOWN_ROUTE = "other"
QUIET = frozenset({"/metrics", "/livez", "/readyz"})  # asked every few seconds by machines
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_PATH = 100  # characters of a path that no route knows


class Exchange:
    """A request, and what was sent back so far.

    Parameters
    ----------
    scope, receive, send : as ASGI has them
        The server's; the application gets the methods `receive` and `send` instead.
    on_end : callable
        Told just before the answer's last byte leaves, so that whoever has an answer finds it counted.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, on_end: Callable[["Exchange"], None]) -> None:
        self.scope = scope
        given = Headers(scope=scope).get(REQUEST_ID, "")
        self.journey = Journey(given if SAFE_ID.fullmatch(given) else uuid.uuid4().hex)
        self.started, self.started_ns = time.perf_counter(), time.time_ns()
        self.status = self.received_bytes = self.sent_bytes = 0
        self._receive, self._send, self._on_end = receive, send, on_end
        self._ended = False

    async def receive(self) -> Message:
        """Hand the next piece of the request on."""
        message = await self._receive()
        self.received_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """Hand the next piece of the answer on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID] = self.journey.request_id
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            if not message.get("more_body"):
                self.end()
        await self._send(message)

    def end(self) -> None:
        """Tell that it is over, once."""
        if not self._ended:
            self._ended = True
            self._on_end(self)

    def wall_ns(self, moment: float) -> int:
        """A moment by `time.perf_counter`, in nanoseconds since 1970."""
        return self.started_ns + round((moment - self.started) * 1e9)

    @property
    def is_quiet(self) -> bool:
        """Whether a probe or a scrape asks: of no interest to a log or a trace."""
        return self.scope["path"] in QUIET

    @property
    def method(self) -> str:
        """One of a few; whatever else a client makes up is `other`."""
        method = str(self.scope["method"])
        return method if method in METHODS else "other"

    @property
    def route(self) -> str:
        """The route that answers, known only once it does; `other` if there is none."""
        return getattr(self.scope.get("route"), "path", "") or UNKNOWN_ROUTE

    @property
    def error_code(self) -> str | None:
        """The code of the problem that was the answer."""
        code: str | None = self.scope.get("state", {}).get("error_code")
        return code

    @property
    def facts(self) -> dict[str, Any]:
        """What its log line says besides the id; no header, no query and no address is in it, as they may be secret."""
        path = {"path": self.scope["path"][:MAX_PATH]} if self.route == UNKNOWN_ROUTE else {}
        code = {"code": self.error_code} if self.error_code else {}
        key = self.scope.get("state", {}).get("key_name")
        stages = self.journey.stage_milliseconds
        return {
            "event": "request",
            "method": self.method,
            "route": self.route,
            **path,
            "status": self.status,
            **code,
            "duration_ms": round((time.perf_counter() - self.started) * 1000, 2),
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            **({"key": key} if key else {}),  # its name, not the key
            **self.journey.facts,
            **({"stages_ms": stages} if stages else {}),
        }
