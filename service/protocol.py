"""HTTP connections that do not wait for ever: uvicorn sets no limit to the time in which a request's header arrives."""

import asyncio
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def impatient(seconds: float) -> type[HttpToolsProtocol]:
    """A protocol that hangs up on who has not sent the header of his request after so many seconds."""

    class Impatient(HttpToolsProtocol):
        """Counts the time from the connection, or from the first byte of a later request, to the end of its header."""

        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_header()

        def connection_lost(self, exc: Exception | None) -> None:
            self._header_is_here()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._header_is_here()
            self._wait_for_header()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._header_is_here()
            super().on_headers_complete()

        def _wait_for_header(self) -> None:
            self._patience = self.loop.call_later(seconds, self.transport.abort)

        def _header_is_here(self) -> None:
            if self._patience is not None:
                self._patience.cancel()

    return Impatient


def use_impatient_protocol(seconds: float) -> None:
    """Let a server that starts in this process from now on use it; BentoML leaves the choice to uvicorn's `auto`."""
    HTTP_PROTOCOLS["auto"] = impatient(seconds)  # type: ignore[assignment]  # a class is taken as it is
