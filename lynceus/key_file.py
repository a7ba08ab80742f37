"""An API key that lives in a file, and may be another one tomorrow."""

import re
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import httpx

from lynceus.errors import ServiceError

KEY = re.compile(r"[!-~]{1,512}")
MOST = 4096  # bytes read of a file that should hold a key


class KeyFile(httpx.Auth):
    """Sends the key that a file holds as `Authorization: Bearer`.

    Parameters
    ----------
    path : Path
        A text file with the key and nothing else. It is read for every request, so that a key can be replaced while
        the program runs; while it cannot be read, the last key is sent.

    Raises
    ------
    OSError
        If it cannot be read at first.
    ServiceError
        If it holds no key.

    Examples
    --------
    >>> httpx.Client(auth=KeyFile(Path("/etc/lynceus/key")))  # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = read_key(path)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put the key in a request's header."""
        with suppress(OSError, ServiceError):
            self._key = read_key(self._path)
        request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


def read_key(path: Path) -> str:
    """The key in a file.

    Parameters
    ----------
    path : Path
        Of the file.

    Returns
    -------
    str
        Without the white space around it.

    Raises
    ------
    OSError
        If it cannot be read.
    ServiceError
        If it holds anything but one word; the text does not show it.
    """
    with path.open("rb") as file:
        key = file.read(MOST).decode("latin-1").strip()
    if not KEY.fullmatch(key):
        raise ServiceError(f"the file {path} does not hold an API key, which is one word of ASCII")
    return key
