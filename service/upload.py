"""A request's body to temporary files: bounded in bytes and time, checked and hashed as it arrives."""

import asyncio
import errno
import hashlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from io import SEEK_END
from tempfile import TemporaryFile, gettempdir
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from lynceus.errors import TooLargeError
from lynceus.file_map import FileBytes, map_file
from lynceus.fits_file import BEGINNING, BZIP2, GZIP, open_fits
from lynceus.reading import Limits
from service.refusals import BadParameterError, ClientGoneError, DiskFullError, SlowUploadError

FRAME_PARTS = frozenset({"frame", "mask", "weight"})  # FITS; any other part may be a table in any format
DETECT_PARTS = ("frame", "mask", "weight")
EVALUATE_PARTS = ("frame", "catalogue", "detections", "mask", "weight")
MAGIC = (b"SIMPLE", GZIP, BZIP2)
HEAD = 10  # bytes that tell what a file is
FIRST_LOOK = 2880  # bytes, a block, at which the headers of a frame are looked for; then at twice as many, and so on
FORM = b"multipart/form-data"
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Part:
    """A file as it arrives.

    Parameters
    ----------
    name : str
        Of the part; those of `FRAME_PARTS` must be FITS.
    look : callable or None
        Shown its first bytes, more of them each time, until it returns True: it has seen enough.
    """

    def __init__(self, name: str, look: Callable[[bytes], bool] | None = None) -> None:
        self._look = look
        self._look_at = FIRST_LOOK
        self.name = name
        self.is_fits = name in FRAME_PARTS
        self.size = 0
        with _disk():
            self._file = TemporaryFile()  # noqa: SIM115 -- closed with the upload; no name of it could be left behind
        self._hash = hashlib.sha256()
        self._head = b""

    @property
    def sha256(self) -> str:
        """Of all bytes so far, hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Take the next bytes; what cannot be FITS is refused before the rest arrives."""
        if self.is_fits and self.size < HEAD:
            self._head = (self._head + data)[:HEAD]
            if len(self._head) == HEAD:
                _check_magic(self._head)
        self._hash.update(data)
        with _disk():
            self._file.write(data)  # a page-cache write of 64 KiB takes less than a trip to a thread
        self.size += len(data)
        if self._look is not None and self.size >= self._look_at:
            self._show()

    def end(self) -> None:
        """Check that all of it is there, and a file too short for `write` to have checked it."""
        with _disk():
            self._file.flush()
        if self.is_fits and self.size < HEAD:
            _check_magic(self._head)

    def _show(self) -> None:
        """Let the first bytes be looked at."""
        with _disk():
            self._file.seek(0)
            begun = self._file.read(BEGINNING)
            self._file.seek(0, SEEK_END)
        if self._look is not None and (self._look(begun) or len(begun) == BEGINNING):
            self._look = None
        self._look_at = 2 * self.size

    def read(self) -> bytes:
        """The whole file."""
        self._file.seek(0)
        return self._file.read()

    def map(self) -> FileBytes:
        """The whole file without a copy of it; it can be read after `close` too."""
        return map_file(self._file)

    def close(self) -> None:
        """Remove the file."""
        with suppress(OSError):  # what the disk had no room for is written once more, in vain
            self._file.close()


class Upload:
    """What a request brought.

    Parameters
    ----------
    on_close : callable
        Told once when the files are gone.
    allowed : sequence of str
        Names of the parts that may come.
    look : callable or None
        Shown the beginning of the frame (see `Part`).
    """

    def __init__(
        self,
        on_close: Callable[[], None] = lambda: None,
        allowed: Sequence[str] = DETECT_PARTS,
        look: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.allowed = allowed
        self._look = look
        self.parts: dict[str, Part] = {}
        self._on_close: Callable[[], None] | None = on_close

    @property
    def size(self) -> int:
        """Bytes of all parts so far."""
        return sum(part.size for part in self.parts.values())

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """What makes two uploads the same: the parts and their hashes."""
        return tuple(sorted((name, part.sha256) for name, part in self.parts.items()))

    def begin(self, name: str) -> Part:
        """Start to receive a part.

        Raises
        ------
        BadParameterError
            If it is not allowed, or came already.
        """
        if name not in self.allowed or name in self.parts:
            problem = "came twice" if name in self.parts else "is not known"
            raise BadParameterError(f"part {name[:40]!r} {problem}; parts are {', '.join(self.allowed)}")
        self.parts[name] = Part(name, self._look if name == "frame" else None)
        return self.parts[name]

    @property
    def sha256(self) -> str:
        """Of the frame."""
        return self.parts["frame"].sha256

    def read(self, name: str) -> bytes | None:
        """The bytes of a part; None if it did not come."""
        part = self.parts.get(name)
        return None if part is None else part.read()

    def map(self, name: str) -> FileBytes | None:
        """The same without a copy, also once the files are removed; for parts that are large."""
        part = self.parts.get(name)
        return None if part is None else part.map()

    def close(self) -> None:
        """Remove the files; a second call does nothing."""
        for part in self.parts.values():
            part.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


async def receive(
    request: Request, upload: Upload, max_bytes: int, timeout: float, required: Sequence[str] = ("frame",)
) -> None:
    """Store a request's body: a multipart form, or a raw FITS file.

    Parameters
    ----------
    request : Request
        Its body has not been touched.
    upload : Upload
        Receives the parts.
    max_bytes : int
        Of the whole body.
    timeout : float
        Seconds for the whole body.
    required : sequence of str
        Parts that must come.

    Raises
    ------
    TooLargeError, NotFitsError, BadParameterError, SlowUploadError, ClientGoneError, DiskFullError
        As soon as it shows.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    try:
        async with asyncio.timeout(timeout), aclosing(_bounded(request, max_bytes)) as chunks:
            if kind == FORM:
                await _receive_form(chunks, options, upload)
            else:
                await _receive_raw(chunks, upload)
    except TimeoutError:
        raise SlowUploadError(f"the upload took longer than {timeout:g} s") from None
    except ClientDisconnect:
        raise ClientGoneError("the client hung up while uploading") from None
    for name in required:
        if name not in upload.parts:
            raise BadParameterError(f"the form has no part named {name!r}")
    for part in upload.parts.values():
        part.end()


def stated_bytes(request: Request, max_bytes: int) -> int:
    """The length of the body as its header has it; 0 if there is none, TooLargeError if it is over the limit."""
    header = request.headers.get("content-length", "")
    stated = int(header) if header.isdecimal() else 0
    if stated > max_bytes:
        raise _too_large(max_bytes)
    return stated


def free_bytes() -> int:
    """What is free where uploads are stored."""
    return shutil.disk_usage(gettempdir()).free


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks, refused before the first where its stated length is too large."""
    stated_bytes(request, max_bytes)
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"the upload has more than {max_bytes} bytes, the limit")


async def _receive_raw(chunks: AsyncIterator[bytes], upload: Upload) -> None:
    frame = upload.begin("frame")
    async for chunk in chunks:
        frame.write(chunk)


async def _receive_form(chunks: AsyncIterator[bytes], options: Mapping[bytes, bytes], upload: Upload) -> None:
    if b"boundary" not in options:
        raise BadParameterError("the Content-Type header of the form has no boundary")
    form = _Form(upload)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks)
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise BadParameterError("the multipart form cannot be parsed") from error
    if not form.ended:
        raise BadParameterError("the multipart form is cut short")


class _Form:
    """Routes the events of the multipart parser to the parts of an upload."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._part: Part | None = None
        self.callbacks: Any = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._headers[b"content-disposition"] = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._part = self.upload.begin(options.get(b"name", b"").decode("utf-8", "replace"))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is not None:
            self._part.write(data[start:end])

    def _on_end(self) -> None:
        self.ended = True


@contextmanager
def _disk() -> Iterator[None]:
    """Say in the caller's words that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullError("there is no room for the upload on the disk") from error
        raise


def _check_magic(head: bytes) -> None:
    """Refuse what cannot be FITS; `open_fits` knows what else it may be, and says so."""
    if not head.startswith(MAGIC):
        open_fits(head, Limits())
