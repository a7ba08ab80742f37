"""The application without a server: requests go to it directly, so that a thousand of them take seconds."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import httpx
from starlette.applications import Starlette


class Asker:
    """Asks an application that has started.

    Parameters
    ----------
    runner : asyncio.Runner
        Whose loop the application lives in; it stands still between two questions.
    client : httpx.AsyncClient
        Connected to the application.
    """

    def __init__(self, runner: asyncio.Runner, client: httpx.AsyncClient) -> None:
        self._runner = runner
        self._client = client

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer to one request."""
        return self._runner.run(self._client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        """The answer to a GET."""
        return self.ask("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """The answer to a POST."""
        return self.ask("POST", path, **options)


@contextmanager
def in_process(app: Starlette) -> Iterator[Asker]:
    """Start an application, ask it, and stop it."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        client = runner.run(_started(app, stack))
        try:
            yield Asker(runner, client)
        finally:
            runner.run(stack.aclose())


async def _started(app: Starlette, stack: AsyncExitStack) -> httpx.AsyncClient:
    await stack.enter_async_context(app.router.lifespan_context(app))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://lynceus.test"))
