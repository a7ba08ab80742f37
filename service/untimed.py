"""BentoML's own timeout, left out: every request has a deadline of ours already.

BentoML sets a timer for each request and never cancels it, so that six kilobytes of every answered one stay in memory
for as long as the longest request might have taken: 10 minutes of many small frames are hundreds of megabytes.
"""

from typing import Any

from bentoml._internal.server.http import traffic
from starlette.types import ASGIApp, Receive, Scope, Send


class Untimed:
    """Stands where the timeout would: passes everything on."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self.app(scope, receive, send)


def leave_out_timers() -> None:
    """Let a server that starts in this process from now on set no timers."""
    traffic.TimeoutMiddleware = Untimed  # type: ignore[assignment, misc]
