"""The outermost layer: every request gets an id, is counted, and never shows what broke inside."""

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import problem
from service.metrics import Metrics

REQUEST_ID = "X-Request-ID"
SAFE_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
UNKNOWN_ROUTE = "other"

logger = logging.getLogger(__name__)


class Front:
    """ASGI middleware around all routes.

    Parameters
    ----------
    app : ASGIApp
        The routes and their error handlers.
    metrics : Metrics
        Where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except Exception:
            logger.exception("request %s failed", request_id)
            if not status:
                detail = f"the server failed; its log knows more of request {request_id}"
                await problem(Request(scope), 500, "internal_error", detail)(scope, receive, send_counted)
        finally:
            self._count(scope, status)

    def _count(self, scope: Scope, status: int) -> None:
        route = getattr(scope.get("route"), "path", "") or UNKNOWN_ROUTE
        self.metrics.requests.labels(route, str(status)).inc()
        code = scope.get("state", {}).get("error_code")
        if code is not None:
            self.metrics.rejected.labels(code).inc()
