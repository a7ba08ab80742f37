"""An application that is made when its server starts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send


class Late(Starlette):
    """Stands for an application until the server starts, and makes it then.

    BentoML imports a service twice: in the process that serves, and in the one that supervises it. Only the first
    needs torch and all else that an application is made of, which takes seconds to import.

    Parameters
    ----------
    make : callable
        Imports what the application needs, and makes it.
    """

    def __init__(self, make: Callable[[], Starlette]) -> None:
        super().__init__(lifespan=self._lifespan)
        self._make = make
        self._made: Starlette | None = None

    @property
    def routes(self) -> list[BaseRoute]:
        """The application's; none before there is one."""
        return [] if self._made is None else self._made.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        assert self._made is not None, "the server has not started"
        await self._made(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._made = made = self._make()
        self.state = made.state
        async with made.router.lifespan_context(made):
            yield
