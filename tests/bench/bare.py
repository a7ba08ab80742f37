"""The floor of HTTP: a server that takes an upload and throws it away."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def discard(request: Request) -> PlainTextResponse:
    """Take the body as it comes, and say how long it was."""
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
    return PlainTextResponse(str(length))


async def ready(request: Request) -> PlainTextResponse:
    """Say that it is up."""
    return PlainTextResponse("")


app = Starlette(routes=[Route("/detect", discard, methods=["POST"]), Route("/readyz", ready)])
