"""Files to and from a bucket: interrupted ones go on where they stopped, and every byte is checked."""

from pathlib import Path
from typing import IO, Any

from lynceus.errors import BundleError, ConflictError, StoreAwayError
from lynceus.sums import sha256_of
from model_store.bucket import Bucket, Head
from model_store.store import Progress

RECENT_S = 3600.0  # an unfinished push may still be running if it wrote something in this time


def upload(bucket: Bucket, key: str, path: Path, sha256: str, progress: Progress | None) -> None:
    """Put a file, unless it is there already.

    What an interrupted push of other contents left is replaced; what may belong to one that is still
    running is not, and raises ConflictError.
    """
    size = path.stat().st_size
    there = bucket.head(key)
    if not same(there, sha256, size):
        if there and there.age_s < RECENT_S:
            raise under_way(key)
        with path.open("rb") as file:
            body: Any = Watched(file, path.name, size, progress)
            done = bucket.put(key, body, sha256=sha256, over=there.etag if there else None)
        if not done and not same(bucket.head(key), sha256, size):
            raise under_way(key)
    if progress:
        progress(path.name, size, size)


def same(there: Head | None, sha256: str, size: int) -> bool:
    """Whether an object is the file that is meant, by its size and what its writer said of it."""
    return there is not None and (there.sha256, there.size) == (sha256, size)


def under_way(key: str) -> ConflictError:
    """Somebody else publishes the same version with other contents."""
    return ConflictError(
        f"another push of {key.rpartition('/')[0]} with other files is under way or was cut off less than an hour ago: "
        "choose another version, or try again in an hour"
    )


def download(bucket: Bucket, key: str, target: Path, sha256: str, progress: Progress | None) -> None:
    """Get a file; what an interrupted try left in `<target>.<sha256>.part` is continued."""
    part = target.with_name(f"{target.name}.{sha256[:16]}.part")
    resumed = part.exists()
    while not _continue(bucket, key, part, target.name, progress):
        pass
    if sha256_of(part) == sha256:
        part.replace(target)
        return
    part.unlink()
    if not resumed:
        raise BundleError(f"{key} is damaged in the store, its sha256 is not the one in SHA256SUMS")
    download(bucket, key, target, sha256, progress)  # what an earlier try left may have been damaged


def _continue(bucket: Bucket, key: str, part: Path, name: str, progress: Progress | None) -> bool:
    """Append what is missing; False if the line broke after some of it had come."""
    there = bucket.head(key)
    if there is None:
        raise BundleError(f"{key} is missing in the store, although SHA256SUMS lists it")
    part.touch()
    before = done = part.stat().st_size
    if done > there.size:
        part.unlink()
        return False
    try:
        with part.open("ab") as file:
            for block in bucket.stream(key, there.etag, done) if done < there.size else ():
                done += file.write(block)
                if progress:
                    progress(name, done, there.size)
    except StoreAwayError:
        if done == before:
            raise
        return False
    return True


class Watched:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], name: str, total: int, progress: Progress | None) -> None:
        self.file, self.name, self.total, self.progress = file, name, total, progress

    def read(self, size: int = -1) -> bytes:
        """Read and tell."""
        block = self.file.read(size)
        if self.progress:
            self.progress(self.name, self.file.tell(), self.total)
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go elsewhere: boto3 begins anew when it tries again."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self.file.tell()
