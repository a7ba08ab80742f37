"""From a location in words to a store."""

import hashlib
from pathlib import Path

from platformdirs import user_cache_path

from lynceus.errors import StoreError
from model_store.local import LocalStore
from model_store.store import Store

S3 = "s3://"


def open_store(
    location: str, *, cache: Path | None = None, endpoint: str | None = None, region: str | None = None
) -> Store:
    """Open the store at a location; nothing is read or written yet.

    Parameters
    ----------
    location : str
        A folder, or `s3://bucket/prefix`.
    cache : Path or None
        Where versions of an S3 store are kept on this machine; by default a folder of the user's cache,
        another one for every store.
    endpoint : str or None
        Address of an S3 server other than AWS, such as `https://minio.observatory.org`.
    region : str or None
        Of the bucket.

    Raises
    ------
    StoreError
        If the location, the endpoint or the region cannot be used.
    """
    if not location.startswith(S3):
        if "://" in location:
            raise StoreError("a store is a folder or s3://bucket/prefix")
        return LocalStore(Path(location).expanduser())
    from model_store.s3 import S3Store  # boto3 takes a third of a second to import

    return S3Store(location, cache or default_cache(location, endpoint), endpoint=endpoint, region=region)


def default_cache(location: str, endpoint: str | None = None) -> Path:
    """The folder of the user's cache for one store."""
    key = hashlib.sha256(f"{endpoint or ''} {location.rstrip('/')}".encode()).hexdigest()
    return user_cache_path("lynceus") / key[:16]
