"""Who comes in: a key is asked for, and its rate kept, before any byte of a body is read."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.keys import Key, Keyring, find
from service.refusals import RateLimitedError, UnauthorizedError

BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="The API key.")
HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key", description="The same in its own header.")
MINUTE = 60.0  # seconds


class Gate:
    """A dependency of every route that wants a key; without keys it is not there at all.

    Parameters
    ----------
    keyring : Keyring
        Who may come in.
    rate : float
        Requests a minute of a key that names no rate; 0 for any number.
    burst : int
        Requests of a key that may come at once.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, keyring: Keyring, rate: float = 0.0, burst: int = 10, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.keyring = keyring
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}  # by name: as many as there were names in the file

    async def __call__(
        self,
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
        header: Annotated[str | None, Depends(HEADER)],
    ) -> None:
        """Let a request in.

        Raises
        ------
        UnauthorizedError
            If it brings no key, or an unknown one.
        RateLimitedError
            If its key asks too often.
        """
        if self.keyring.is_due():
            await asyncio.to_thread(self.keyring.look)
        key = self._known(header or (bearer.credentials if bearer else None))
        request.state.key_name = key.name
        self._take_turn(key)

    def _known(self, presented: str | None) -> Key:
        if presented is None:
            raise UnauthorizedError("an API key is needed: Authorization: Bearer <key>, or X-API-Key")
        key = find(self.keyring.keys, presented)
        if key is None:
            raise UnauthorizedError("the API key is not known", presented=True)
        return key

    def _take_turn(self, key: Key) -> None:
        rate = self._rate if key.rate is None else key.rate
        if not rate:
            return
        wait = self._buckets.setdefault(key.name, Bucket(self._burst)).take(self._clock(), rate / MINUTE)
        if wait > 0:
            raise RateLimitedError(f"{key.name} asks more than {rate:g} times a minute", wait)


class Bucket:
    """Tokens that come back at a steady rate; a request takes one.

    Parameters
    ----------
    size : int
        Tokens when it is full, as at first.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._tokens = float(size)
        self._last = 0.0

    def take(self, now: float, rate: float) -> float:
        """Take a token if there is one.

        Parameters
        ----------
        now : float
            Seconds, monotonic.
        rate : float
            Tokens that come back in a second.

        Returns
        -------
        float
            Seconds until there is one; 0 if it was taken.
        """
        self._tokens = min(self._size, self._tokens + (now - self._last) * rate)
        self._last = now
        if self._tokens < 1:
            return (1 - self._tokens) / rate
        self._tokens -= 1
        return 0.0
