"""The objects under one prefix of an S3 bucket; the only module that knows boto3 and its errors."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any
from uuid import uuid4

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from lynceus.errors import StoreAwayError, StoreError

BLOCK = 1 << 20  # bytes read at once
SHA256, WRITE = "sha256", "write"  # metadata: of the contents, and which write made the object
NO_ETAG = f'"{"0" * 32}"'
BUSY = ("SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError")
UNKNOWN = (400, 405, 501)  # what servers answer to a header they do not know
BROKEN_CONDITION = (404, 409, 412)  # nothing there, another write under way, something else there
Body = bytes | IO[bytes]


@dataclass(frozen=True)
class Head:
    """What is known of an object without reading it; `age_s` by the server's clock."""

    size: int
    etag: str
    age_s: float
    metadata: dict[str, str]

    @property
    def sha256(self) -> str:
        """Of the contents, as stated by who wrote them."""
        return self.metadata.get(SHA256, "")


class Bucket:
    """Keys here are relative to the prefix; a missing object is None, every other failure a StoreError."""

    def __init__(self, location: str, endpoint: str | None, region: str | None) -> None:
        self.location = location.rstrip("/")
        self.name, _, prefix = location.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.conditions_hold = False
        config = Config(
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard"},  # three tries in all; AWS_MAX_ATTEMPTS changes it
            s3={
                "addressing_style": "path" if endpoint else "auto",
                "payload_signing_enabled": True,  # the server checks the sha256 of what arrives
            },
            request_checksum_calculation="when_required",  # other servers do not know the newer checksums
            response_checksum_validation="when_required",
        )
        with self._translated():
            try:
                session = boto3.session.Session()  # boto3's own is shared, and not made for threads
                self._client: Any = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
            except ValueError as error:
                raise StoreError("the endpoint or the region of the store cannot be used") from error

    def all_keys(self, under: str = "") -> list[str]:
        """Every key that begins with `under`."""
        with self._translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix + under)
            return [entry["Key"].removeprefix(self.prefix) for page in pages for entry in page.get("Contents", ())]

    def head(self, key: str) -> Head | None:
        """Size, ETag and metadata of an object."""
        with self._translated():
            try:
                answer = self._client.head_object(**self._at(key))
            except ClientError as error:
                if _is_missing(error):
                    return None
                raise
        age = (_now(answer) - answer["LastModified"]).total_seconds()
        return Head(answer["ContentLength"], answer["ETag"], age, answer["Metadata"])

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The bytes of a small object and its ETag."""
        with self._translated():
            try:
                answer = self._client.get_object(**self._at(key))
            except ClientError as error:
                if _is_missing(error):
                    return None
                raise
            with closing(answer["Body"]) as body:
                return body.read(), answer["ETag"]

    def stream(self, key: str, etag: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of an object from `start` on, as long as it is the one with that ETag."""
        with self._translated():
            answer = self._client.get_object(**self._at(key), IfMatch=etag, Range=f"bytes={start}-")
            with closing(answer["Body"]) as body:  # entering the body itself would give one that misses a broken line
                while block := body.read(BLOCK):
                    yield block

    def put(self, key: str, body: Body, *, sha256: str = "", over: str | None = None) -> bool:
        """Write an object if nothing is there, or if the one with the ETag `over` is.

        Returns
        -------
        bool
            False if somebody else wrote it first. A write whose answer was lost and that boto3 tried
            again counts as done: the object says which write made it.
        """
        mark = uuid4().hex
        condition = {"IfMatch": over} if over else {"IfNoneMatch": "*"}
        if self._attempt(key, body, condition, {SHA256: sha256, WRITE: mark}):
            return True
        there = self.head(key)
        return there is not None and there.metadata.get(WRITE) == mark

    def check_conditions(self, key: str, body: bytes, sha256: str = "") -> None:
        """Raise StoreError if the server overwrites what it was told to leave alone.

        Writes that depend on conditions would otherwise be lost in silence. `body` is what the object
        holds already, so that nothing is harmed where conditions are ignored.
        """
        if not self.conditions_hold:
            for condition in ({"IfNoneMatch": "*"}, {"IfMatch": NO_ETAG}):
                if self._attempt(key, body, condition, {SHA256: sha256}):
                    raise StoreError(
                        f"the server of {self.location} ignores the conditions of a write (If-None-Match, If-Match), "
                        "so it cannot hold a store; docs/model-store.md names servers that heed them"
                    )
            self.conditions_hold = True

    def _attempt(self, key: str, body: Body, condition: dict[str, str], metadata: dict[str, str]) -> bool:
        """One conditional write; False if its condition did not hold."""
        with self._translated():
            try:
                self._client.put_object(**self._at(key), Body=body, Metadata=metadata, **condition)
            except ClientError as error:
                if _status(error) in BROKEN_CONDITION and _code(error) != "NoSuchBucket":
                    return False
                raise
        return True

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self.prefix + key}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Say in the user's words what boto3 says in its own; credentials and addresses stay out of it."""
        try:
            yield
        except ClientError as error:
            raise self._refused(_code(error), _status(error)) from error
        except NoCredentialsError as error:
            raise StoreError(f"there are no credentials for {self.location}") from error
        except (NoConnectionError, HTTPClientError, IncompleteReadError) as error:
            raise StoreAwayError(f"{self.location} cannot be reached now ({type(error).__name__})") from error
        except BotoCoreError as error:
            raise StoreError(f"{self.location} cannot be used ({type(error).__name__})") from error

    def _refused(self, code: str, status: int) -> StoreError:
        if (status >= 500 and status != 501) or code in BUSY:
            return StoreAwayError(f"{self.location} cannot answer now ({code})")
        if code == "NoSuchBucket":
            return StoreError(f"there is no bucket {self.name}")
        if status in (401, 403):
            return StoreError(f"{self.location} refuses access ({code}): check the credentials and their permissions")
        if status == 412:
            return StoreError(f"an object of {self.location} was replaced while it was read: try again")
        if status in UNKNOWN:
            return StoreError(f"{self.location} does not understand a request ({code})")
        return StoreError(f"{self.location} refuses a request ({code})")


def _now(answer: Any) -> datetime:
    """The time at the server, or here if it does not say."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)


def _is_missing(error: ClientError) -> bool:
    """The object is not there, but the bucket is."""
    return _status(error) == 404 and _code(error) != "NoSuchBucket"


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
