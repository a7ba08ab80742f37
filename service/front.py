"""The outermost layer: every request gets an id, is counted, logged and traced, and never shows what broke inside."""

import logging

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.context import travelling
from service.errors import problem
from service.exchange import Exchange
from service.metrics import Metrics
from service.tracing import Tracing

logger = logging.getLogger(__name__)
access = logging.getLogger("service.access")


class Front:
    """ASGI middleware around all routes.

    Parameters
    ----------
    app : ASGIApp
        The routes and their error handlers.
    metrics : Metrics
        Where requests are counted.
    tracing : Tracing
        Where their traces go.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, on_end=self._count)
        in_progress = 0 if exchange.is_quiet else 1
        self.metrics.in_progress.inc(in_progress)
        try:
            with travelling(exchange.journey), self.tracing.traced(exchange):
                await self._answer(exchange)
        finally:
            exchange.end()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._answer_safely(exchange)
        finally:
            _log(exchange)

    async def _answer_safely(self, exchange: Exchange) -> None:
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("the request failed")
            if not exchange.status:
                detail = f"the server failed; its log knows more of request {exchange.journey.request_id}"
                answer = problem(Request(exchange.scope), 500, "internal_error", detail)
                await answer(exchange.scope, exchange.receive, exchange.send)

    def _count(self, exchange: Exchange) -> None:
        self.metrics.requests.labels(exchange.route, str(exchange.status)).inc()
        if exchange.error_code is not None:
            self.metrics.rejected.labels(exchange.error_code).inc()
        self.metrics.in_progress.dec(0 if exchange.is_quiet else 1)


def _log(exchange: Exchange) -> None:
    """One line a request; those of probes and scrapes only where somebody debugs."""
    level = logging.DEBUG if exchange.is_quiet else logging.INFO
    access.log(level, "%s %s %d", exchange.method, exchange.route, exchange.status, extra=exchange.facts)
