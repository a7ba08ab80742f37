"""API keys: who may ask, and how often. Of a key the server keeps nothing but its sha256."""

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lynceus.errors import LynceusError

NAME = re.compile(r"[\w.-]{1,40}", re.ASCII)
PLAIN = re.compile(r"[!-~]{16,512}")  # a shorter one can be guessed from its hash
HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
SEPARATOR = re.compile(r"[\n;]")
LARGEST_FILE = 1 << 20  # bytes
REREAD_EVERY = 1.0  # seconds

logger = logging.getLogger(__name__)


class KeysError(LynceusError):
    """The API keys cannot be read; the text names the line and never shows a key."""

    code = "bad_keys"


@dataclass(frozen=True)
class Key:
    """A key that opens the server.

    Attributes
    ----------
    name : str
        Of who holds it; two keys of one name are the old and the new of one holder.
    digest : bytes
        Its sha256.
    rate : float or None
        Requests a minute; None for the rate in the settings.
    """

    name: str
    digest: bytes = field(repr=False)
    rate: float | None = None


def read_keys(text: str) -> tuple[Key, ...]:
    """Read keys: a line each (or separated by `;`) of name, key or `sha256:` of it, and perhaps requests a minute.

    Raises
    ------
    KeysError
        If a line makes no sense, or there is no key at all.
    """
    lines = enumerate(SEPARATOR.split(text.removeprefix("\ufeff")), start=1)
    keys = tuple(_key(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise KeysError("there is no API key in what should hold them")
    _check_distinct(keys)
    return keys


def find(keys: Iterable[Key], presented: str) -> Key | None:
    """The key that was presented; the time taken does not depend on which it is, or how close another was."""
    digest = _digest_of(presented)
    found = None  # no early end: every key is compared
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


class Keyring:
    """The keys in the settings and those in a file, which may change while the server runs.

    Parameters
    ----------
    keys : sequence of Key
        That never change.
    file : Path or None
        Holds more. A broken or missing one leaves the keys as they were.
    on_failure : callable
        Told of every content that cannot be used, once.
    clock : callable
        Seconds, monotonic.

    Raises
    ------
    KeysError
        If the file cannot be read at the start, when there are no keys to go on with.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        file: Path | None = None,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed = tuple(keys)
        self._file = file
        self._on_failure = on_failure
        self._clock = clock
        self._next_look = clock() + REREAD_EVERY
        content = "" if file is None else _content(file)
        self._seen = _digest_of(content)
        self.keys = self._fixed if file is None else self._with(content)

    def is_due(self) -> bool:
        """Whether it is time for `look`; true for one caller a second."""
        now = self._clock()
        if self._file is None or now < self._next_look:
            return False
        self._next_look = now + REREAD_EVERY
        return True

    def look(self) -> None:
        """Take up what the file holds now. It is read whole: a swapped link, as Kubernetes does it, needs no care."""
        assert self._file is not None
        try:
            content = _content(self._file)
        except KeysError as error:
            self._keep(b"", error)
            return
        seen = _digest_of(content)
        if seen != self._seen:
            self._take_up(content, seen)

    def _take_up(self, content: str, seen: bytes) -> None:
        try:
            self.keys = self._with(content)
        except KeysError as error:
            self._keep(seen, error)
            return
        self._seen = seen
        logger.info("API keys of %s are in use", ", ".join(sorted({key.name for key in self.keys})))

    def _keep(self, seen: bytes, error: KeysError) -> None:
        """Say, once of each content, that it is not used."""
        if seen == self._seen:
            return
        self._seen = seen
        self._on_failure()
        logger.error("the API keys stay as they were: %s", error)

    def _with(self, content: str) -> tuple[Key, ...]:
        keys = (*self._fixed, *read_keys(content))
        _check_distinct(keys)
        return keys


def _digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _key(number: int, line: str) -> Key:
    name, *rest = line.split()
    if not NAME.fullmatch(name) or len(rest) not in (1, 2):
        raise KeysError(f"line {number} of the API keys is not: name, key or sha256:<its sha256>, requests a minute")
    return Key(name, _hashed(number, rest[0]), _rate(number, rest[1]) if len(rest) == 2 else None)


def _hashed(number: int, spelled: str) -> bytes:
    if hashed := HASHED.fullmatch(spelled):
        return bytes.fromhex(hashed[1])
    if spelled.startswith("sha256:") or not PLAIN.fullmatch(spelled):
        raise KeysError(
            f"line {number} of the API keys: a key has 16 to 512 ASCII characters, or is sha256:<64 digits>"
        )
    return _digest_of(spelled)


def _rate(number: int, spelled: str) -> float:
    try:
        rate = float(spelled)
    except ValueError:
        rate = float("nan")
    if not 0 < rate < float("inf"):
        raise KeysError(f"line {number} of the API keys: requests a minute must be a number above 0")
    return rate


def _check_distinct(keys: Sequence[Key]) -> None:
    if len({key.digest for key in keys}) < len(keys):
        raise KeysError("the same API key is there twice")


def _content(file: Path) -> str:
    """The text of a file of keys.

    Raises
    ------
    KeysError
        If there is none; the path is for the log of the server, not for callers.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise KeysError(f"the file of API keys {file} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise KeysError(f"the file of API keys {file} is larger than {LARGEST_FILE} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise KeysError(f"the file of API keys {file} is not text") from None
