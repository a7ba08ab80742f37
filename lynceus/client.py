"""The service from Python: `Client` and, for asyncio, `AsyncClient`."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import AsyncRetrying, Retrying

from lynceus.call import Call, File, checked, json_of, patience
from lynceus.errors import RefusedError, ServiceError, UnavailableError
from lynceus.key_file import KeyFile

__all__ = ["AsyncClient", "Client", "RefusedError", "ServiceError", "UnavailableError"]

EXTENSIONS = {
    "json": ".json", "votable": ".vot", "ecsv": ".ecsv", "csv": ".csv", "fits": ".fits", "ldac": ".cat",
    "sextractor": ".txt", "ds9": ".reg",
}  # fmt: skip
"""Of the files that hold each format; those of `lynceus.catalogue`, which takes a second to import."""


class _Asker:
    """What the two clients share: everything but waiting for the network."""

    def __init__(
        self,
        url: str,
        timeout: float,
        retries: int,
        api_key: str | os.PathLike[str] | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise ServiceError(f"the address of the service must begin with http:// or https://, not {url!r}")
        key = {"Authorization": f"Bearer {api_key}"} if isinstance(api_key, str) and api_key else {}
        auth = KeyFile(Path(api_key)) if isinstance(api_key, os.PathLike) else None
        self.timeout = timeout
        self.retries = retries
        self._options: dict[str, Any] = {"base_url": url, "headers": {**key, **(headers or {})}, "auth": auth}

    def _detect(self, frame: File, fmt: str, mask: File | None, weight: File | None, query: dict[str, Any]) -> Call:
        files = {"frame": frame, "mask": mask, "weight": weight}
        return Call("POST", "detect", {**query, "format": fmt}, files, self.timeout)

    def _evaluate(
        self, frame: File, catalogue: File, detections: File | None, page: bool, query: dict[str, Any]
    ) -> Call:
        files = {"frame": frame, "catalogue": catalogue, "detections": detections}
        query = {**query, "format": "html" if page else "json"}
        return Call("POST", "evaluate", query, files, self.timeout, page)

    def _models(self) -> Call:
        return Call("GET", "models", timeout=self.timeout)


class Client(_Asker):
    """A connection to the service.

    Parameters
    ----------
    url : str
        Where the service is, e.g. `http://127.0.0.1:3000`.
    timeout : float
        Seconds that one call may take, all its retries and waits included.
    retries : int
        How often a call is repeated where the service cannot be reached, is full, or answers 408, 425, 429, 502, 503
        or 504. Nothing else is repeated.
    api_key : str, path or None
        Sent as `Authorization: Bearer`; a path names the file that holds it, which is read for every request.
    transport : httpx.BaseTransport or None
        What carries the requests, for tests and special networks.
    headers : mapping or None
        Sent with every request.

    Raises
    ------
    ServiceError
        If `url` is no address of HTTP, or the file holds no key.
    OSError
        If that file cannot be read.

    Examples
    --------
    >>> with Client("http://127.0.0.1:3000") as client:  # doctest: +SKIP
    ...     answer = client.detect("frame.fits", min_score=0.8)
    ...     print(answer["count"], answer["detections"][0]["ra"])
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 300.0,
        retries: int = 3,
        api_key: str | os.PathLike[str] | None = None,
        transport: httpx.BaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(url, timeout, retries, api_key, headers)
        self._http = httpx.Client(transport=transport, **self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def detect(
        self, frame: File, *, mask: File | None = None, weight: File | None = None, **query: Any
    ) -> dict[str, Any]:
        """Find the sources in a frame.

        Parameters
        ----------
        frame, mask, weight : path or bytes
            FITS files; one given as a path is streamed, never held in memory.
        **query
            Parameters of `/detect`: hdu, min_score, max_detections, model, measure, deadline, priority.

        Returns
        -------
        dict
            The service's JSON: frame, model, warnings, count, detections, ...

        Raises
        ------
        RefusedError
            If the service refuses the frame or a parameter.
        UnavailableError
            If it could not be reached, or was full, to the last attempt.
        ServiceError
            If it failed on this frame.
        OSError
            If a file cannot be read.

        Examples
        --------
        >>> [row["snr"] for row in client.detect("frame.fits")["detections"]]  # doctest: +SKIP
        """
        return json_of(self._ask(self._detect(frame, "json", mask, weight, query)))

    def detect_as(
        self, frame: File, format: str, *, mask: File | None = None, weight: File | None = None, **query: Any
    ) -> bytes:
        """Find the sources in a frame; the answer as a file in any of the service's formats.

        Parameters and errors are those of `detect`.

        Examples
        --------
        >>> Path("frame.vot").write_bytes(client.detect_as("frame.fits", "votable"))  # doctest: +SKIP
        """
        return self._ask(self._detect(frame, format, mask, weight, query)).content

    def evaluate(self, frame: File, catalogue: File, detections: File | None = None, **query: Any) -> dict[str, Any]:
        """Score what the service finds in a frame, or a list of detections, against a catalogue.

        Parameters
        ----------
        frame, catalogue : path or bytes
            The FITS frame, and the sources in it in any table format that the service reads.
        detections : path or bytes or None
            A list to score in place of the service's own.
        **query
            Parameters of `/evaluate`: hdu, model, min_score, box_rule, ignore_flags, unlisted, deadline, priority.

        Returns
        -------
        dict
            The service's JSON; the figures are under `evaluation`.

        Raises
        ------
        RefusedError, UnavailableError, ServiceError, OSError
            As `detect`.

        Examples
        --------
        >>> client.evaluate("frame.fits", "frame.cat")["evaluation"]["f1"]  # doctest: +SKIP
        """
        return json_of(self._ask(self._evaluate(frame, catalogue, detections, False, query)))

    def evaluation_page(self, frame: File, catalogue: File, detections: File | None = None, **query: Any) -> bytes:
        """Score as `evaluate` does; the answer as an HTML page with the overlay.

        Examples
        --------
        >>> Path("page.html").write_bytes(client.evaluation_page("frame.fits", "frame.cat"))  # doctest: +SKIP
        """
        return self._ask(self._evaluate(frame, catalogue, detections, True, query)).content

    def models(self) -> dict[str, Any]:
        """The versions that the service has loaded, and what its tracks point to.

        Examples
        --------
        >>> client.models()["tracks"]["stable"]  # doctest: +SKIP
        """
        return json_of(self._ask(self._models()))

    def _ask(self, call: Call) -> httpx.Response:
        return Retrying(**patience(self.retries, self.timeout))(self._ask_once, call)

    def _ask_once(self, call: Call) -> httpx.Response:
        with call.attempt() as request:
            return checked(self._http.request(**request), call)


class AsyncClient(_Asker):
    """A connection to the service for asyncio; parameters, methods and errors are those of `Client`.

    Examples
    --------
    >>> async with AsyncClient("http://127.0.0.1:3000") as client:  # doctest: +SKIP
    ...     answers = await asyncio.gather(*(client.detect(path) for path in paths))
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 300.0,
        retries: int = 3,
        api_key: str | os.PathLike[str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(url, timeout, retries, api_key, headers)
        self._http = httpx.AsyncClient(transport=transport, **self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def detect(
        self, frame: File, *, mask: File | None = None, weight: File | None = None, **query: Any
    ) -> dict[str, Any]:
        """Find the sources in a frame, as `Client.detect`.

        Examples
        --------
        >>> (await client.detect("frame.fits"))["count"]  # doctest: +SKIP
        """
        return json_of(await self._ask(self._detect(frame, "json", mask, weight, query)))

    async def detect_as(
        self, frame: File, format: str, *, mask: File | None = None, weight: File | None = None, **query: Any
    ) -> bytes:
        """Find the sources in a frame, as `Client.detect_as`.

        Examples
        --------
        >>> table = await client.detect_as("frame.fits", "votable")  # doctest: +SKIP
        """
        return (await self._ask(self._detect(frame, format, mask, weight, query))).content

    async def evaluate(
        self, frame: File, catalogue: File, detections: File | None = None, **query: Any
    ) -> dict[str, Any]:
        """Score against a catalogue, as `Client.evaluate`.

        Examples
        --------
        >>> (await client.evaluate("frame.fits", "frame.cat"))["evaluation"]["f1"]  # doctest: +SKIP
        """
        return json_of(await self._ask(self._evaluate(frame, catalogue, detections, False, query)))

    async def evaluation_page(
        self, frame: File, catalogue: File, detections: File | None = None, **query: Any
    ) -> bytes:
        """Score against a catalogue, as `Client.evaluation_page`.

        Examples
        --------
        >>> page = await client.evaluation_page("frame.fits", "frame.cat")  # doctest: +SKIP
        """
        return (await self._ask(self._evaluate(frame, catalogue, detections, True, query))).content

    async def models(self) -> dict[str, Any]:
        """The versions that the service has loaded, as `Client.models`.

        Examples
        --------
        >>> (await client.models())["tracks"]["stable"]  # doctest: +SKIP
        """
        return json_of(await self._ask(self._models()))

    async def _ask(self, call: Call) -> httpx.Response:
        return await AsyncRetrying(**patience(self.retries, self.timeout))(self._ask_once, call)

    async def _ask_once(self, call: Call) -> httpx.Response:
        with call.attempt() as request:
            return checked(await self._http.request(**request), call)
