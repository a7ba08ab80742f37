"""One question to the service: its request, its retries, and what each answer means; no input or output."""

import email.utils
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import httpx
from tenacity import RetryCallState, retry_if_exception_type, stop_after_attempt, stop_before_delay

from lynceus.errors import RefusedError, ServiceError, UnavailableError

File = str | os.PathLike[str] | bytes

BASE_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
CONNECT_TIMEOUT = 10.0  # seconds
TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})  # worth asking again; 408 is a slow line, not a bad frame
UNREACHABLE, INTERRUPTED, NOT_LYNCEUS = "unreachable", "interrupted", "not_lynceus"


def backoff(attempt: int, retry_after: float | None = None) -> float:
    """How long to wait before asking again: exponential with full jitter, never less than the service asks for.

    Parameters
    ----------
    attempt : int
        How many failed so far, from 1.
    retry_after : float or None
        What the service asked for, in seconds.

    Returns
    -------
    float
        Seconds.

    Notes
    -----
    Full jitter keeps clients that failed together from coming back together.

    Examples
    --------
    >>> 0 <= backoff(1) <= 0.5 and 7 <= backoff(1, retry_after=7) <= 7.5
    True
    """
    longest = min(LONGEST_PAUSE, BASE_PAUSE * 2 ** min(attempt - 1, 16))
    return random.uniform(0, longest) + (retry_after or 0.0)


@dataclass
class Call:
    """One question, and all that asking it once or several times needs.

    Attributes
    ----------
    method, path : str
        Of the request.
    query : mapping
        Its parameters; None for what is not asked.
    files : mapping
        Name of each part to its file or bytes; None for what is not sent.
    timeout : float
        Seconds for all attempts together.
    page : bool
        Whether an HTML page is what is asked for.
    """

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, File | None] = field(default_factory=dict)
    timeout: float = 300.0
    page: bool = False
    name: str = field(default_factory=lambda: uuid4().hex)
    start: float = field(default_factory=time.monotonic)
    attempts: int = 0

    @contextmanager
    def attempt(self) -> Iterator[dict[str, Any]]:
        """The arguments of an httpx request, the files open at their beginning; httpx's errors leave translated."""
        self.attempts += 1
        left = max(self.start + self.timeout - time.monotonic(), 1e-3)
        with ExitStack() as stack:
            files = {
                name: (_name(file), file if isinstance(file, bytes) else stack.enter_context(Path(file).open("rb")))
                for name, file in self.files.items()
                if file is not None
            }
            arguments: dict[str, Any] = {
                "method": self.method,
                "url": self.path,
                "params": {name: value for name, value in self.query.items() if value is not None},
                "headers": {"X-Request-ID": f"{self.name}-{self.attempts}"},
                "timeout": httpx.Timeout(left, connect=min(left, CONNECT_TIMEOUT)),
            }
            try:
                yield arguments | ({"files": files} if files else {})
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise UnavailableError(f"the service cannot be reached: {_why(error)}", code=UNREACHABLE) from error
            except httpx.RequestError as error:
                raise UnavailableError(f"the service did not answer: {_why(error)}", code=INTERRUPTED) from error


def patience(retries: int, timeout: float) -> dict[str, Any]:
    """How tenacity is to ask again: so often, and no longer than so many seconds."""
    return {
        "retry": retry_if_exception_type(UnavailableError),
        "wait": _pause,
        "stop": stop_after_attempt(retries + 1) | stop_before_delay(timeout),
        "reraise": True,
    }


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return backoff(state.attempt_number, error.retry_after if isinstance(error, ServiceError) else None)


def checked(response: httpx.Response, call: Call) -> httpx.Response:
    """Let a good answer pass.

    Raises
    ------
    RefusedError, UnavailableError, ServiceError
        What any other answer means.
    """
    if not response.is_success:
        raise _error_of(response)
    if _media_type(response) == "text/html" and not call.page:
        raise ServiceError(_not_ours(response), status=response.status_code, code=NOT_LYNCEUS)
    return response


def _error_of(response: httpx.Response) -> ServiceError:
    status = response.status_code
    kind = UnavailableError if status in TRANSIENT else ServiceError if status >= 500 else RefusedError
    detail, code = _problem(response) or (_not_ours(response), kind.code)
    return kind(detail, status=status, code=code, retry_after=_seconds(response.headers.get("Retry-After", "")))


def _problem(response: httpx.Response) -> tuple[str, str] | None:
    """Detail and code of a problem, or of an error VOTable; None if the body is neither."""
    try:
        if "xml" in _media_type(response):
            infos = {
                info.get("name"): info for info in ElementTree.fromstring(response.content).iter() if info.get("name")
            }
            return (infos["QUERY_STATUS"].text or "").strip(), infos["CODE"].get("value", "")
        body = response.json()
        return str(body["detail"]), str(body["code"])
    except (ValueError, LookupError, TypeError, ElementTree.ParseError):
        return None


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The object in the body.

    Raises
    ------
    ServiceError
        If there is none, because something else than the service answered.
    """
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ServiceError(_not_ours(response), status=response.status_code, code=NOT_LYNCEUS)
    return body


def _not_ours(response: httpx.Response) -> str:
    """What to say of an answer that Lynceus does not give."""
    target = response.headers.get("Location")
    kind = _media_type(response) or "no media type"
    where = f"; it points to {target}" if target else ""
    return (
        f"{response.status_code} {response.reason_phrase} ({kind}) is not the answer of a Lynceus service, "
        f"perhaps of a proxy in front of it{where}"
    )


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _seconds(retry_after: str) -> float | None:
    """A Retry-After header, which is seconds or a date; None where it is neither."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        until = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)


def _name(file: File) -> str:
    """What a part's file is called."""
    return "frame.fits" if isinstance(file, bytes) else Path(file).name.encode(errors="replace").decode()


def _why(error: httpx.RequestError) -> str:
    """The reason in a few words; timeouts have none of their own."""
    return "it took too long" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
